//! Secrets on their way to a task, and what is left of them.

use std::path::Path;

use gaffer_domain::reason::AttemptEnd;
use gaffer_domain::spec::SecretUse;
use gaffer_protocol::secrets::Secrets;
use gaffer_protocol::wire::{ToMaster, ToWorker};

use super::docker::{in_container, worker as docker_worker};
use super::docker_daemon;
use super::master::{Books, Master, Order, Session, attempt, command, script, secrets, soon};
use super::{Worker, restart};
use crate::attempt::secret_files::SecretFiles;

const NAME: &str = "DB_PASSWORD";
const VALUE: &str = "correct-horse/battery staple";

fn used(file: Option<&str>) -> SecretUse {
    SecretUse { name: NAME.to_owned(), file: file.map(str::to_owned) }
}

fn with_secrets(order: Order, uses: &[SecretUse]) -> Order {
    Order { secrets: uses.to_vec(), ..order }
}

/// All that is written in files of a worker, and where.
fn places_of(value: &[u8], dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            found.extend(places_of(value, &path));
        } else if std::fs::read(&path).unwrap_or_default().windows(value.len()).any(|part| part == value) {
            found.push(path.display().to_string());
        }
    }
    found
}

/// Keeps the session until an attempt has ended.
async fn until_end(session: &mut Session, books: &mut Books) -> AttemptEnd {
    while !books.ended.contains_key(&attempt(1)) {
        session.keep(books).await;
    }
    books.ended[&attempt(1)].end.clone()
}

#[tokio::test]
async fn a_task_gets_its_secrets_and_nothing_of_them_is_in_its_output_or_left() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    let text = "[ \"$DB_PASSWORD\" = \"$(cat $GAFFER_SECRETS_DIR/tls/key)\" ] && echo same; \
                stat -c %a $GAFFER_SECRETS_DIR/tls/key; stat -f -c %T $GAFFER_SECRETS_DIR; echo $GAFFER_SECRETS_DIR; \
                echo \"it is $DB_PASSWORD\"; printf %s \"$DB_PASSWORD\" | base64 >&2; \
                printf 'correct-ho'; sleep 0.1; printf 'rse/battery staple'; echo; echo > $TMPDIR/started; sleep 1000";
    let mut books = Books::default();
    books.secrets.insert(attempt(1), secrets(attempt(1), &[(NAME, VALUE.as_bytes())]));
    session.start([with_secrets(script(1, text), &[used(None), used(Some("tls/key"))])]).await;
    while books.stdout(attempt(1)).lines().count() < 6 {
        session.keep(&mut books).await;
    }
    assert_eq!(places_of(VALUE.as_bytes(), worker.dir.path()), Vec::<String>::new());
    session.send(&[ToWorker::Stop { attempt: attempt(1) }]).await;
    until_end(&mut session, &mut books).await;
    let stdout = books.stdout(attempt(1));
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines[..2], ["same", "400"]);
    assert_eq!(lines[4..], ["it is ***", "***"]);
    assert_eq!(books.stderr(attempt(1)), "***\n");
    if Path::new("/dev/shm").exists() {
        assert_eq!(lines[2], "tmpfs");
    }
    assert!(!Path::new(lines[3]).exists(), "its files are gone");
    assert_eq!(books.asked, [attempt(1)]);
    worker.stop().await;
}

#[tokio::test]
async fn an_attempt_asks_again_until_it_is_answered_also_in_another_session() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    session.start([with_secrets(script(1, "echo $DB_PASSWORD | wc -c"), &[used(None)])]).await;
    for _ in 0..2 {
        assert_eq!(session.report().await, ToMaster::SecretsWanted { attempt: attempt(1) });
    }
    drop(session);
    let mut session = worker.master.accept_and_welcome().await;
    let mut books = Books::default();
    books.secrets.insert(attempt(1), secrets(attempt(1), &[(NAME, VALUE.as_bytes())]));
    assert_eq!(until_end(&mut session, &mut books).await, AttemptEnd::Exited { code: 0 });
    assert_eq!(books.stdout(attempt(1)).trim(), (VALUE.len() + 1).to_string());
    worker.stop().await;
}

#[tokio::test]
async fn a_start_that_waits_for_its_secrets_asks_again_after_its_worker_was_killed() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let order = || with_secrets(script(1, "echo \"<$DB_PASSWORD>\""), &[used(None)]);
    let mut child = restart::spawn_worker(dir.path(), &master.url);
    let mut session = master.accept_and_welcome().await;
    session.start([order()]).await;
    assert_eq!(session.report().await, ToMaster::SecretsWanted { attempt: attempt(1) });
    drop(session);
    child.kill().await.unwrap();
    // It had not begun: the next one knows nothing of it, so the master sends it again.
    let _child = restart::spawn_worker(dir.path(), &master.url);
    let mut session = master.accept_and_welcome().await;
    assert_eq!(session.hello.held, []);
    let mut books = Books::default();
    books.secrets.insert(attempt(1), secrets(attempt(1), &[(NAME, VALUE.as_bytes())]));
    session.start([order()]).await;
    assert_eq!(until_end(&mut session, &mut books).await, AttemptEnd::Exited { code: 0 });
    assert_eq!(books.stdout(attempt(1)), "<***>\n");
}

#[tokio::test]
async fn an_attempt_without_its_secrets_does_not_start_and_says_why() {
    let cases = [
        (
            Secrets { attempt: attempt(1), values: Vec::new(), problem: Some("it is gone".to_owned()) },
            "it is gone",
        ),
        (secrets(attempt(1), &[]), "sent no value of DB_PASSWORD"),
        (
            secrets(attempt(1), &[(NAME, b"half\0of it")]),
            "has a zero byte; write {name: DB_PASSWORD, file: PATH}",
        ),
        (secrets(attempt(1), &[(NAME, b"\xff\xfehidden")]), "is not text in UTF-8"),
    ];
    for (answer, expected) in cases {
        let (worker, mut session) = Worker::start_and_welcome().await;
        let mut books = Books::default();
        books.secrets.insert(attempt(1), answer);
        session.start([with_secrets(script(1, "echo it runs"), &[used(None)])]).await;
        let AttemptEnd::StartFailed { exit_code, message } = until_end(&mut session, &mut books).await else {
            panic!("{books:?}")
        };
        assert_eq!(exit_code, 125);
        assert!(message.starts_with("cannot prepare the task's secrets: "), "{message}");
        assert!(message.contains(expected) && !message.contains("hidden"), "{message}");
        assert_eq!(books.stdout(attempt(1)), "");
        worker.stop().await;
    }
}

#[tokio::test]
async fn an_attempt_that_waits_for_its_secrets_is_stopped_at_once() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    session.start([with_secrets(script(1, "true"), &[used(None)])]).await;
    assert_eq!(session.report().await, ToMaster::SecretsWanted { attempt: attempt(1) });
    session.send(&[ToWorker::Stop { attempt: attempt(1) }]).await;
    let ended = soon("its end", session.ended()).await;
    assert_eq!(ended.end, AttemptEnd::Stopped { process: None });
    session.send(&[ToWorker::EndStored { attempt: attempt(1) }]).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_task_without_secrets_asks_for_none_and_its_output_is_as_it_wrote_it() {
    let (worker, mut session) = Worker::start_and_welcome().await;
    let books = session.see_through(vec![script(1, "echo ::add-mask::abcdef; echo abcdef")]).await;
    assert_eq!(books.stdout(attempt(1)), "::add-mask::abcdef\nabcdef\n");
    assert!(books.asked.is_empty());
    worker.stop().await;
}

/// Prints its secrets, waits for a file, prints them again.
const IN_CONTAINER: &str = "cat $GAFFER_SECRETS_DIR/key /etc/own/key > /tmp/both; stat -c %a /run/secrets/key; \
                            echo \"$DB_PASSWORD $(wc -c < /tmp/both)\"; echo 'first part'; \
                            while [ ! -e /dir/go ]; do sleep 0.05; done; echo \"again $DB_PASSWORD\"; \
                            base64 < /run/secrets/key | tr -d '\\n'; echo; touch /run/secrets/key 2>/dev/null || echo 'read only'";

fn container_order(dir: &Path) -> Order {
    let volume = format!("{}:/dir", dir.display()).parse().unwrap();
    let container = gaffer_domain::spec::Container { volumes: vec![volume], ..super::docker::container() };
    let order = in_container(command(1, &["sh", "-c", IN_CONTAINER]), container);
    with_secrets(order, &[used(None), used(Some("key")), used(Some("/etc/own/key"))])
}

const FROM_CONTAINER: &str = "444\n*** 56\nfirst part\nagain ***\n***\nread only\n";

#[tokio::test]
async fn a_container_gets_its_secrets_and_a_restarted_worker_goes_on_hiding_them() {
    const TEST: &str = "a_container_gets_its_secrets_and_a_restarted_worker_goes_on_hiding_them";
    let Some(address) = docker_daemon::shared(TEST) else { return };
    let (master, dir, volume) =
        (Master::start().await, tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut child = restart::spawn_docker_worker(dir.path(), &master.url, address, volume.path());
    let mut session = master.accept_and_welcome().await;
    let mut books = Books::default();
    books.secrets.insert(attempt(1), secrets(attempt(1), &[(NAME, VALUE.as_bytes())]));
    session.start([container_order(volume.path())]).await;
    while !books.stdout(attempt(1)).contains("first part\n") {
        session.keep(&mut books).await;
    }
    assert_eq!(places_of(VALUE.as_bytes(), dir.path()), Vec::<String>::new());
    drop(session);
    child.kill().await.unwrap();
    std::fs::write(volume.path().join("go"), "").unwrap();

    let _child = restart::spawn_docker_worker(dir.path(), &master.url, address, volume.path());
    let mut session = master.accept().await;
    session.welcome(&books.stored()).await;
    assert_eq!(until_end(&mut session, &mut books).await, AttemptEnd::Exited { code: 0 });
    assert_eq!(books.stdout(attempt(1)), FROM_CONTAINER);
    assert_eq!(books.asked, [attempt(1)], "it is not asked for again");
}

#[tokio::test]
async fn without_what_is_to_be_hidden_a_restarted_worker_shows_nothing_of_a_container() {
    const TEST: &str = "without_what_is_to_be_hidden_a_restarted_worker_shows_nothing_of_a_container";
    let Some(address) = docker_daemon::shared(TEST) else { return };
    let (master, dir, volume) =
        (Master::start().await, tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut child = restart::spawn_docker_worker(dir.path(), &master.url, address, volume.path());
    let mut session = master.accept_and_welcome().await;
    let mut books = Books::default();
    books.secrets.insert(attempt(1), secrets(attempt(1), &[(NAME, VALUE.as_bytes())]));
    session.start([container_order(volume.path())]).await;
    while !books.stdout(attempt(1)).contains("first part\n") {
        session.keep(&mut books).await;
    }
    drop(session);
    child.kill().await.unwrap();
    SecretFiles::close(&dir.path().canonicalize().unwrap());
    std::fs::write(volume.path().join("go"), "").unwrap();

    let _child = restart::spawn_docker_worker(dir.path(), &master.url, address, volume.path());
    let mut session = master.accept().await;
    session.welcome(&books.stored()).await;
    until_end(&mut session, &mut books).await;
    assert_eq!(books.stdout(attempt(1)), "444\n*** 56\nfirst part\n");
    assert!(books.stderr(attempt(1)).contains("output is left out"), "{books:?}");
}

#[tokio::test]
async fn a_container_that_ends_by_itself_leaves_no_secret() {
    const TEST: &str = "a_container_that_ends_by_itself_leaves_no_secret";
    let Some(address) = docker_daemon::shared(TEST) else { return };
    let (worker, mut session) = docker_worker(address).await;
    let order = in_container(
        command(1, &["sh", "-c", "cat /run/secrets/key; printf ' cor'"]),
        super::docker::container(),
    );
    let mut books = Books::default();
    books.secrets.insert(attempt(1), secrets(attempt(1), &[(NAME, VALUE.as_bytes())]));
    session.start([with_secrets(order, &[used(Some("key"))])]).await;
    assert_eq!(until_end(&mut session, &mut books).await, AttemptEnd::Exited { code: 0 });
    // Its last bytes could have been the beginning of another one.
    assert_eq!(books.stdout(attempt(1)), "*** cor");
    assert_eq!(places_of(VALUE.as_bytes(), worker.dir.path()), Vec::<String>::new());
    let left = SecretFiles::attempts_of(&worker.dir.path().canonicalize().unwrap());
    assert!(left.is_empty(), "{left:?}");
    worker.stop().await;
}
