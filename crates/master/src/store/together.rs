//! Answers what is asked at the same moment together: when a whole fleet returns, it costs a statement and a commit for each group
//! of workers instead of for each worker.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::StoreError;

/// The largest group.
const MAX_GROUP: usize = 128;

/// Questions that wait, and whether they are being answered. Nobody waits for others to come: a single question is a group.
#[derive(Debug)]
pub(super) struct Together<Q, A>(Arc<Mutex<Waiting<Q, A>>>);

#[derive(Debug)]
struct Waiting<Q, A> {
    questions: Vec<Question<Q, A>>,
    is_answered: bool,
}

#[derive(Debug)]
struct Question<Q, A> {
    question: Q,
    tell: oneshot::Sender<Result<A, StoreError>>,
}

impl<Q, A> Default for Together<Q, A> {
    fn default() -> Self {
        Together(Arc::new(Mutex::new(Waiting { questions: Vec::new(), is_answered: false })))
    }
}

impl<Q, A> Clone for Together<Q, A> {
    fn clone(&self) -> Self {
        Together(Arc::clone(&self.0))
    }
}

impl<Q, A> Together<Q, A>
where
    Q: Clone + Send + 'static,
    A: Send + 'static,
{
    /// Asks, together with others who ask meanwhile. `answer` gives as many answers as there are questions, in their order; it
    /// begins after the question was asked. It goes on when who asked has gone away.
    ///
    /// # Errors
    /// Its own. If those of a group may be about a part of it, each question is asked alone.
    pub async fn ask<F, R>(&self, question: Q, answer: F) -> Result<A, StoreError>
    where
        F: Fn(Vec<Q>) -> R + Send + 'static,
        R: Future<Output = Result<Vec<A>, StoreError>> + Send + 'static,
    {
        let (tell, told) = oneshot::channel();
        let begins = {
            let mut waiting = self.lock();
            waiting.questions.push(Question { question, tell });
            !std::mem::replace(&mut waiting.is_answered, true)
        };
        if begins {
            tokio::spawn(self.clone().answer_all(answer));
        }
        told.await.unwrap_or_else(|_| Err(StoreError::shutting_down()))
    }

    async fn answer_all<F, R>(self, answer: F)
    where
        F: Fn(Vec<Q>) -> R,
        R: Future<Output = Result<Vec<A>, StoreError>>,
    {
        let end = End(&self);
        while let Some(group) = self.next_group() {
            let (questions, tell): (Vec<Q>, Vec<_>) =
                group.into_iter().map(|asked| (asked.question, asked.tell)).unzip();
            match answer(questions.clone()).await {
                Ok(answers) => {
                    tell.into_iter().zip(answers).for_each(|(tell, answer)| drop(tell.send(Ok(answer))));
                }
                Err(error) if error.may_be_partial() && questions.len() > 1 => {
                    for (question, tell) in questions.into_iter().zip(tell) {
                        let alone = answer(vec![question]).await;
                        let _ = tell.send(alone.and_then(|answers| {
                            answers.into_iter().next().ok_or_else(|| of_group(&"there was no answer"))
                        }));
                    }
                }
                Err(error) => {
                    let mut tell = tell.into_iter();
                    let first = tell.next();
                    for tell in tell {
                        let _ = tell.send(Err(match &error {
                            StoreError::NotLeader => StoreError::NotLeader,
                            error => of_group(error),
                        }));
                    }
                    if let Some(first) = first {
                        let _ = first.send(Err(error));
                    }
                }
            }
        }
        std::mem::forget(end);
    }

    /// The next group; with none, the next question begins again.
    fn next_group(&self) -> Option<Vec<Question<Q, A>>> {
        let mut waiting = self.lock();
        let len = waiting.questions.len().min(MAX_GROUP);
        waiting.is_answered = len > 0;
        (len > 0).then(|| waiting.questions.drain(..len).collect())
    }
}

impl<Q, A> Together<Q, A> {
    fn lock(&self) -> MutexGuard<'_, Waiting<Q, A>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one of a group hears of an error that is told to another one.
fn of_group(error: &impl ToString) -> StoreError {
    StoreError::Unavailable(sqlx::Error::Io(io::Error::other(error.to_string())))
}

/// Should answering panic or be aborted, those who wait are told, and the next one begins again.
struct End<'a, Q, A>(&'a Together<Q, A>);

impl<Q, A> Drop for End<'_, Q, A> {
    fn drop(&mut self) {
        let mut waiting = self.0.lock();
        waiting.questions.clear();
        waiting.is_answered = false;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::sync::Semaphore;

    use super::*;

    fn poison() -> StoreError {
        StoreError::Unreadable("two".to_owned())
    }

    #[tokio::test]
    async fn what_is_asked_while_others_are_answered_is_answered_together_and_in_order() {
        let (together, gate) = (Together::<u32, (u32, usize)>::default(), Arc::new(Semaphore::new(0)));
        let ask = |question| {
            let (together, gate) = (together.clone(), gate.clone());
            tokio::spawn(async move {
                let answer = move |group: Vec<u32>| {
                    let gate = gate.clone();
                    async move {
                        gate.acquire().await.unwrap().forget();
                        Ok(group.iter().map(|asked| (asked * 10, group.len())).collect())
                    }
                };
                together.ask(question, answer).await.unwrap()
            })
        };
        let first = ask(1);
        tokio::task::yield_now().await;
        let others = [ask(2), ask(3), ask(4)];
        tokio::task::yield_now().await;
        gate.add_permits(2);
        assert_eq!(first.await.unwrap(), (10, 1));
        for (other, wanted) in others.into_iter().zip([20, 30, 40]) {
            assert_eq!(other.await.unwrap(), (wanted, 3));
        }
        gate.add_permits(1);
        assert_eq!(ask(5).await.unwrap(), (50, 1), "it begins again after nothing was left");
    }

    #[tokio::test]
    async fn an_error_of_one_is_its_own_and_an_error_of_all_is_told_to_each() {
        let answer = async |group: Vec<u32>| match group.contains(&2) {
            true => Err(poison()),
            false => Ok(group),
        };
        let together = Together::<u32, u32>::default();
        let asked = [1, 2, 3].map(|question| together.ask(question, answer));
        let [one, two, three] = futures::future::join_all(asked).await.try_into().unwrap();
        assert!(one.unwrap() == 1 && three.unwrap() == 3);
        assert!(matches!(two, Err(StoreError::Unreadable(_))));

        let away = async |_: Vec<u32>| Err(StoreError::too_busy());
        let asked = [1, 2].map(|question| together.ask(question, away));
        let told = futures::future::join_all(asked).await;
        assert!(told.iter().all(|told| matches!(told, Err(StoreError::Unavailable(_)))));
    }

    #[tokio::test]
    async fn who_asks_after_a_panic_is_answered() {
        let together = Together::<u32, u32>::default();
        let panics = async |group: Vec<u32>| {
            assert!(group.is_empty(), "this is meant to fail");
            Ok(group)
        };
        assert!(together.ask(1, panics).await.is_err());
        assert_eq!(together.ask(2, async |group: Vec<u32>| Ok(group)).await.unwrap(), 2);
    }
}
