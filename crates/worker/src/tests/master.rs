//! A master for tests: as much of one as a worker can see through its socket, under the test's control.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::LazyLock;
use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use gaffer_domain::placement::DefinitionRef;
use gaffer_domain::quantity::{Bytes, Cpu, Span};
use gaffer_domain::secrets::SecretValue;
use gaffer_domain::spec::{Action, Container, DriverKind, OutputLimit, Resources, StopSignal, StopSpec};
use gaffer_domain::{AttemptRef, JobId, TaskId, WorkerId};
use gaffer_protocol::definitions::{Definition, StartAttempt, parts};
use gaffer_protocol::output::{Chunk, EncodedChunk, Stream};
use gaffer_protocol::secrets::{Secrets, SentSecret, SentValue};
use gaffer_protocol::wire::{
    Ended, HeldAttempt, Hello, InputTaken, Start, StoredOutput, ToMaster, ToWorker, Welcome, frames,
};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

/// No test waits longer for anything, and none waits for so long on a machine that is only busy. Set
/// `GAFFER_TEST_PATIENCE` to fewer seconds where failures are expected.
static PATIENCE: LazyLock<Duration> = LazyLock::new(|| {
    let seconds = std::env::var("GAFFER_TEST_PATIENCE").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(120))
});

/// Waits for something, but not for ever.
pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(*PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("waited in vain: {what}"),
    }
}

/// Waits until something is so, looking again and again.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    eventually(what, async || is_so()).await;
}

/// The same where to look takes a while itself.
pub async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    soon(what, async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

pub struct Master {
    listener: TcpListener,
    pub url: String,
}

pub struct Session {
    socket: WebSocketStream<TcpStream>,
    said: VecDeque<Said>,
    is_over: bool,
    /// As the last heartbeat that listed it said.
    held: Option<Vec<HeldAttempt>>,
    pub authorization: String,
    pub path: String,
    pub hello: Hello,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    Report(ToMaster),
    Output(Chunk),
    Nothing,
}

impl Master {
    pub async fn start() -> Master {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        Master { listener, url }
    }

    /// The next worker that dials in, up to its hello.
    pub async fn accept(&self) -> Session {
        soon("a worker that dials in", async {
            let (stream, _) = self.listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (mut authorization, mut path) = (String::new(), String::new());
            #[allow(clippy::result_large_err)]
            let look = |request: &Request, response: Response| {
                path = request.uri().path().to_owned();
                authorization = request.headers()["authorization"].to_str().unwrap().to_owned();
                Ok(response)
            };
            let mut socket = tokio_tungstenite::accept_hdr_async(stream, look).await.unwrap();
            let first = socket.next().await.unwrap().unwrap();
            let mut messages: Vec<ToMaster> = serde_json::from_str(first.to_text().unwrap()).unwrap();
            assert_eq!(messages.len(), 1);
            let Some(ToMaster::Hello(hello)) = messages.pop() else { panic!("no hello") };
            Session {
                socket,
                said: VecDeque::new(),
                is_over: false,
                held: None,
                authorization,
                path,
                hello: *hello,
            }
        })
        .await
    }

    /// The same, welcomed as a worker that has nothing stored here.
    pub async fn accept_and_welcome(&self) -> Session {
        let mut session = self.accept().await;
        session.welcome(&[]).await;
        session
    }

    /// Answers the next worker that dials in with something else than a WebSocket.
    pub async fn refuse(&self, status: &str, body: &str) {
        soon("a worker to refuse", async {
            let (mut stream, _) = self.listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let answer = format!(
                "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
            let _ = stream.shutdown().await;
        })
        .await;
    }
}

impl Session {
    pub async fn welcome(&mut self, stored: &[StoredOutput]) {
        let welcome = Welcome {
            worker: WorkerId(7),
            name: self.hello.name.clone(),
            version: "test".to_owned(),
            heartbeat: Span::from_millis(200),
            stored: stored.to_vec(),
            output_window: 8 << 20,
        };
        self.send(&[ToWorker::Welcome(welcome)]).await;
    }

    pub async fn send(&mut self, messages: &[ToWorker]) {
        for text in frames(messages).unwrap() {
            // The worker may be gone; then reading tells.
            let _ = self.socket.send(Message::text(text)).await;
        }
    }

    /// Sends definitions and starts.
    pub async fn start(&mut self, orders: impl IntoIterator<Item = Order>) {
        let messages: Vec<ToWorker> = orders.into_iter().flat_map(|order| order.messages()).collect();
        self.send(&messages).await;
    }

    pub async fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    /// What the worker says next. Each heartbeat lists what is held, also one that leaves out what has not changed.
    pub async fn next(&mut self) -> Said {
        loop {
            if let Some(said) = self.said.pop_front() {
                return said;
            }
            match soon("a frame from the worker", self.socket.next()).await {
                Some(Ok(Message::Text(text))) => {
                    let messages: Vec<ToMaster> = serde_json::from_str(&text).unwrap();
                    assert!(!messages.is_empty());
                    let messages = messages.into_iter().map(|message| self.listed(message));
                    let messages: Vec<ToMaster> = messages.collect();
                    self.said.extend(messages.into_iter().map(Said::Report));
                }
                Some(Ok(Message::Binary(frame))) => {
                    let chunk = EncodedChunk::from_frame(frame).unwrap().decode().unwrap();
                    self.said.push_back(Said::Output(chunk));
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_)) | Err(_)) | None => {
                    assert!(!self.is_over, "the worker has closed the connection");
                    self.is_over = true;
                    return Said::Nothing;
                }
            }
        }
    }

    fn listed(&mut self, message: ToMaster) -> ToMaster {
        let ToMaster::Heartbeat(mut beat) = message else { return message };
        assert!(beat.held.is_none() || beat.held != self.held, "the same list, twice");
        self.held = beat.held.take().or(self.held.take());
        beat.held.clone_from(&self.held);
        assert!(beat.held.is_some(), "the first heartbeat lists nothing");
        ToMaster::Heartbeat(beat)
    }

    /// What the worker has said besides, in the frame that was read last.
    pub fn said_already(&mut self) -> Option<Said> {
        self.said.pop_front()
    }

    /// The next report that is not a heartbeat, which is answered; output is passed over.
    pub async fn report(&mut self) -> ToMaster {
        loop {
            match self.next().await {
                Said::Report(ToMaster::Heartbeat(beat)) => {
                    self.send(&[ToWorker::Alive { sequence: beat.sequence }]).await;
                }
                Said::Report(report) => return report,
                Said::Output(_) => {}
                Said::Nothing => panic!("the worker closed the connection"),
            }
        }
    }

    /// The next end; other reports are passed over. Nothing is acknowledged.
    pub async fn ended(&mut self) -> Ended {
        loop {
            if let ToMaster::Ended(ended) = self.report().await {
                return *ended;
            }
        }
    }

    /// Starts attempts and follows them to their acknowledged ends.
    pub async fn see_through(&mut self, starts: Vec<Order>) -> Books {
        let mut books = Books::default();
        let count = starts.len();
        self.start(starts).await;
        while books.ended.len() < count {
            self.keep(&mut books).await;
        }
        books
    }

    /// Takes what the worker says next into the books and acknowledges it. False if the connection is closed.
    pub async fn keep(&mut self, books: &mut Books) -> bool {
        let said = self.next().await;
        if said == Said::Nothing {
            return false;
        }
        let mut answers = books.take(said);
        while let Some(said) = self.said_already() {
            answers.extend(books.take(said));
        }
        if !answers.is_empty() {
            self.send(&answers).await;
        }
        true
    }
}

/// All that a master has of its attempts.
#[derive(Debug, Default)]
pub struct Books {
    pub output: HashMap<AttemptRef, Vec<u8>>,
    pub stdout: HashMap<AttemptRef, Vec<u8>>,
    pub stderr: HashMap<AttemptRef, Vec<u8>>,
    pub started: HashMap<AttemptRef, usize>,
    pub ended: HashMap<AttemptRef, Ended>,
    pub returned: Vec<AttemptRef>,
    pub taken: Vec<InputTaken>,
    /// The questions for secrets, and the answers to them.
    pub asked: Vec<AttemptRef>,
    pub secrets: HashMap<AttemptRef, Secrets>,
}

impl Books {
    /// Enters something; gives the acknowledgements. Checks that nothing is missing, doubled or out of order.
    pub fn take(&mut self, said: Said) -> Vec<ToWorker> {
        match said {
            Said::Report(ToMaster::Heartbeat(beat)) => vec![ToWorker::Alive { sequence: beat.sequence }],
            Said::Report(ToMaster::Started { attempt, .. }) => {
                *self.started.entry(attempt).or_default() += 1;
                Vec::new()
            }
            Said::Report(ToMaster::Returned { attempt }) => {
                self.returned.push(attempt);
                Vec::new()
            }
            Said::Report(ToMaster::Ended(ended)) => {
                let attempt = ended.attempt;
                let output = self.output.entry(attempt).or_default();
                assert_eq!(ended.output_bytes, output.len() as u64, "an end came before its output");
                if let Some(expected) = &ended.output_sha256 {
                    let digest = Sha256::digest(&output);
                    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
                    assert_eq!(&digest, expected);
                }
                self.ended.insert(attempt, *ended);
                vec![ToWorker::EndStored { attempt }]
            }
            Said::Report(ToMaster::InputTaken(taken)) => {
                self.taken.push(taken);
                Vec::new()
            }
            Said::Report(ToMaster::SecretsWanted { attempt }) => {
                self.asked.push(attempt);
                let answer = self.secrets.get(&attempt).cloned();
                answer.into_iter().map(|secrets| ToWorker::Secrets(Box::new(secrets))).collect()
            }
            Said::Report(ToMaster::Noted { .. }) => Vec::new(),
            Said::Report(report) => panic!("unexpected: {report:?}"),
            Said::Output(chunk) => {
                let attempt = chunk.attempt;
                let output = self.output.entry(attempt).or_default();
                assert!(chunk.offset <= output.len() as u64, "a gap before {}", chunk.offset);
                if let Some(new) = chunk.from_offset(output.len() as u64) {
                    for record in new.records {
                        output.extend_from_slice(&record.bytes);
                        let stream = match record.stream {
                            Stream::Stdout => &mut self.stdout,
                            Stream::Stderr => &mut self.stderr,
                        };
                        stream.entry(attempt).or_default().extend_from_slice(&record.bytes);
                    }
                }
                vec![ToWorker::OutputStored { attempt, offset: output.len() as u64 }]
            }
            Said::Nothing => Vec::new(),
        }
    }

    pub fn stored(&self) -> Vec<StoredOutput> {
        let stored = |(attempt, output): (&AttemptRef, &Vec<u8>)| StoredOutput {
            attempt: *attempt,
            offset: output.len() as u64,
        };
        self.output.iter().map(stored).collect()
    }

    pub fn stdout(&self, attempt: AttemptRef) -> String {
        String::from_utf8(self.stdout.get(&attempt).cloned().unwrap_or_default()).unwrap()
    }

    pub fn stderr(&self, attempt: AttemptRef) -> String {
        String::from_utf8(self.stderr.get(&attempt).cloned().unwrap_or_default()).unwrap()
    }
}

/// An answer with these values.
pub fn secrets(attempt: AttemptRef, values: &[(&str, &[u8])]) -> Secrets {
    let sent = |(name, value): &(&str, &[u8])| SentSecret {
        name: (*name).to_owned(),
        value: SentValue(SecretValue::new(value.to_vec())),
    };
    Secrets { attempt, values: values.iter().map(sent).collect(), problem: None }
}

pub fn attempt(task: i64) -> AttemptRef {
    AttemptRef { task: TaskId(task), attempt: 1 }
}

/// An attempt to be started, with a definition that no other attempt has.
#[derive(Debug, Clone)]
pub struct Order {
    pub attempt: AttemptRef,
    pub job: JobId,
    pub task: String,
    pub index: u32,
    pub item: Option<gaffer_domain::spec::Item>,
    pub driver: DriverKind,
    pub container: Option<Box<Container>>,
    pub named_ports: Vec<gaffer_domain::spec::Port>,
    pub workdir: Option<String>,
    pub nice: u8,
    pub stdin: bool,
    pub action: Action,
    pub env: BTreeMap<String, String>,
    pub secrets: Vec<gaffer_domain::spec::SecretUse>,
    pub resources: Resources,
    pub countables: BTreeMap<String, u32>,
    pub timeout: Option<Span>,
    pub output: Option<OutputLimit>,
    pub stop: StopSpec,
    pub health: Option<gaffer_domain::spec::HealthCheck>,
    pub lost_after: Span,
}

impl Order {
    /// As a master sends it.
    pub fn messages(self) -> Vec<ToWorker> {
        let Order { attempt, index, lost_after, .. } = self;
        let item = self.item.clone();
        let definition = DefinitionRef { job: JobId(attempt.task.0), position: 0 };
        let (mut messages, _) = parts(definition, &self.start().definition);
        messages.push(ToWorker::Start(Start { attempt, definition, index, item, lost_after }));
        messages
    }

    /// As an executor gets it.
    pub fn start(self) -> StartAttempt {
        let definition = Definition {
            job: self.job,
            task: self.task,
            driver: self.driver,
            container: self.container,
            named_ports: self.named_ports,
            workdir: self.workdir,
            nice: self.nice,
            stdin: self.stdin,
            action: self.action,
            env: self.env,
            secrets: self.secrets,
            resources: self.resources,
            countables: self.countables,
            timeout: self.timeout,
            output: self.output,
            stop: self.stop,
            health: self.health,
            readiness: None,
            lost_after: self.lost_after,
        };
        let (attempt, index, pieces) = (self.attempt, self.index, BTreeMap::new());
        let (item, assigned_ports) = (self.item, Vec::new());
        StartAttempt { attempt, index, item, pieces, assigned_ports, definition: definition.into() }
    }
}

/// An attempt of that task, to be run by the host, with much time and no needs.
pub fn start(task: i64, action: Action) -> Order {
    Order {
        attempt: attempt(task),
        job: JobId(1),
        task: "main".to_owned(),
        index: 0,
        item: None,
        driver: DriverKind::Host,
        container: None,
        named_ports: Vec::new(),
        workdir: None,
        nice: 0,
        stdin: false,
        action,
        env: BTreeMap::new(),
        secrets: Vec::new(),
        resources: Resources { cpu: Cpu::from_millis(0), memory: Bytes(0), disk: Bytes(0) },
        timeout: None,
        output: None,
        countables: BTreeMap::new(),
        stop: StopSpec { signal: StopSignal::Sigterm, grace: Span::from_secs(30) },
        health: None,
        lost_after: Span::from_secs(120),
    }
}

pub fn script(task: i64, text: &str) -> Order {
    start(task, Action::Script(text.to_owned()))
}

pub fn command(task: i64, words: &[&str]) -> Order {
    start(task, Action::Command(words.iter().map(|word| (*word).to_owned()).collect()))
}

/// A play of the scripted driver.
pub fn play(task: i64, text: &str) -> Order {
    Order { driver: DriverKind::Scripted, ..script(task, text) }
}
