//! A worker controlled by the test, message by message.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use gaffer_domain::placement::Feature;
use gaffer_domain::quantity::{Bytes, Cpu};
use gaffer_domain::reason::AttemptEnd;
use gaffer_domain::spec::{DriverKind, Resources};
use gaffer_domain::worker::SILENCE_LIMIT;
use gaffer_domain::{AttemptRef, ProjectId};
use gaffer_master::store::hellos::{Newcomer, Registered};
use gaffer_master::store::{Store, StoreError};
use gaffer_protocol::definitions::{Definitions, StartAttempt};
use gaffer_protocol::output::{ChunkBuilder, Stream};
use gaffer_protocol::wire::{
    ClockReading, DriverStatus, Ended, GoodbyeCode, Heartbeat, HeldAttempt, Hello, MachineStats,
    PROTOCOL_VERSION, Start, ToMaster, ToWorker, Welcome,
};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use uuid::Uuid;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;
type Sink = SplitSink<Socket, Message>;

/// A session of a hand-driven worker. It lasts however long a test takes from one word to the next: pings, which say
/// nothing of the worker, keep the master from hanging up for silence.
pub struct RawWorker {
    sink: Arc<Mutex<Sink>>,
    source: SplitStream<Socket>,
    pings: tokio::task::JoinHandle<()>,
    /// What has arrived and was not asked for yet.
    inbox: VecDeque<ToWorker>,
    definitions: Definitions,
    /// What the master answered to the hello.
    pub welcome: Welcome,
}

/// Registers a worker of a project, with the key of this number, in the database alone.
///
/// # Errors
/// When the database does not answer, or this master no longer leads.
pub async fn register(
    store: &Store,
    (project, key): (ProjectId, i64),
    session: Uuid,
    identity: &[u8; 32],
    hello: &Hello,
) -> Result<Option<Registered>, StoreError> {
    let newcomer = Newcomer { project, key, session, identity, hello, place: &hello.place };
    let before = store.worker_before_hello(&newcomer).await?;
    store.worker_hello(&newcomer, before).await
}

/// A hello of a worker with two processors that has nothing.
pub fn hello(name: &str) -> Hello {
    let resources =
        Resources { cpu: Cpu::from_millis(2_000), memory: Bytes(8 << 30), disk: Bytes(100 << 30) };
    Hello {
        protocol: PROTOCOL_VERSION,
        version: "0.0.0-test".to_owned(),
        identity: Uuid::new_v4(),
        process: Uuid::new_v4(),
        boot_id: "boot-1".to_owned(),
        place: Default::default(),
        own_key: None,
        knows_not_allowed: true,
        name: name.to_owned(),
        labels: Default::default(),
        datacenter: String::new(),
        capacity: resources,
        countables: Default::default(),
        drivers: vec![DriverStatus { driver: DriverKind::Host, healthy: true, detail: None }],
        features: Feature::ALL.map(|feature| feature.as_str().to_owned()).into(),
        arch: "x86_64".to_owned(),
        os: "linux".to_owned(),
        held: Vec::new(),
        warnings: Vec::new(),
    }
}

/// Opens the connection without a word.
pub async fn dial(url: &str, key: &str) -> Result<Socket, Error> {
    let mut request = url.into_client_request()?;
    request.headers_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
    Ok(connect_async(request).await?.0)
}

impl RawWorker {
    /// Dials in and says hello.
    pub async fn connect(url: &str, key: &str, hello: Hello) -> RawWorker {
        RawWorker::try_connect(url, key, hello).await.unwrap_or_else(|said| panic!("not welcome: {said:?}"))
    }

    /// Dials in and says hello; returns what the master said if that is no welcome.
    pub async fn try_connect(url: &str, key: &str, hello: Hello) -> Result<RawWorker, Option<ToWorker>> {
        RawWorker::begin(dial(url, key).await.unwrap(), hello).await
    }

    /// Says hello on an open connection; returns what the master said if that is no welcome.
    pub async fn begin(mut socket: Socket, hello: Hello) -> Result<RawWorker, Option<ToWorker>> {
        let text = serde_json::to_string(&[ToMaster::Hello(Box::new(hello))]).unwrap();
        socket.send(Message::Text(text.into())).await.unwrap();
        loop {
            // An empty frame asks for patience.
            let Some(frame) = read_frame(&mut socket).await else { return Err(None) };
            let mut inbox: VecDeque<ToWorker> = frame.into();
            match inbox.pop_front() {
                None => {}
                Some(ToWorker::Welcome(welcome)) => {
                    let (sink, source) = socket.split();
                    let sink = Arc::new(Mutex::new(sink));
                    let pings = tokio::spawn(ping(Arc::downgrade(&sink)));
                    let definitions = Definitions::default();
                    let mut worker = RawWorker { sink, source, pings, inbox, definitions, welcome };
                    worker.take_definitions();
                    return Ok(worker);
                }
                Some(other) => return Err(Some(other)),
            }
        }
    }

    /// Sends messages in one frame.
    pub async fn say(&mut self, messages: &[ToMaster]) {
        let text = serde_json::to_string(messages).unwrap();
        self.say_text(&text).await;
    }

    /// Sends any text.
    pub async fn say_text(&mut self, text: &str) {
        // An error shows when reading.
        let _ = self.sink.lock().await.send(Message::Text(text.into())).await;
    }

    /// Sends any bytes.
    pub async fn say_bytes(&mut self, bytes: Vec<u8>) {
        let _ = self.sink.lock().await.send(Message::Binary(bytes.into())).await;
    }

    fn take_definitions(&mut self) {
        let definitions = &mut self.definitions;
        self.inbox.retain(|message| match message {
            ToWorker::Definition { definition, at, part, is_last } => {
                definitions.take(*definition, *at, part, *is_last).unwrap();
                false
            }
            _ => true,
        });
    }

    /// A start with its definition, which must have been sent before.
    pub fn resolve(&self, start: &Start) -> StartAttempt {
        self.definitions.resolve(start).expect("a start without its definition")
    }

    /// The next message of the master, definitions left out; none if the session is over.
    pub async fn hear(&mut self) -> Option<ToWorker> {
        let waiting = async {
            while self.inbox.is_empty() {
                self.inbox = read_frame(&mut self.source).await?.into();
                self.take_definitions();
            }
            self.inbox.pop_front()
        };
        tokio::time::timeout(*crate::PATIENCE, waiting).await.expect("the master says nothing")
    }

    /// The next message that `wanted` takes; others are passed over.
    pub async fn hear_until<T>(&mut self, mut wanted: impl FnMut(ToWorker) -> Option<T>) -> T {
        loop {
            let message = self.hear().await.expect("the session is over");
            if let Some(found) = wanted(message) {
                return found;
            }
        }
    }

    /// The next attempt that is to be started.
    pub async fn next_start(&mut self) -> StartAttempt {
        let start = self
            .hear_until(|message| match message {
                ToWorker::Start(start) => Some(start),
                _ => None,
            })
            .await;
        self.resolve(&start)
    }

    /// Says that an attempt started.
    pub async fn started(&mut self, attempt: AttemptRef) {
        self.say(&[ToMaster::Started {
            attempt,
            at: chrono::Utc::now(),
            container: None,
            ports: Vec::new(),
        }])
        .await;
    }

    /// Sends output as one chunk.
    pub async fn output(&mut self, attempt: AttemptRef, offset: u64, stream: Stream, bytes: &[u8]) {
        let mut builder = ChunkBuilder::new();
        builder.push(1_700_000_000_000_000, stream, bytes);
        self.say_bytes(builder.finish(attempt, offset).to_frame().to_vec()).await;
    }

    /// Says that an attempt is over.
    pub async fn ended(&mut self, attempt: AttemptRef, end: AttemptEnd, output_bytes: u64) {
        self.say(&[ToMaster::Ended(Box::new(ended(attempt, end, output_bytes)))]).await;
    }

    /// Sends a heartbeat and waits for its answer: everything said before has been taken in then.
    pub async fn heartbeat(&mut self, sequence: u64, held: Vec<HeldAttempt>) {
        self.heartbeat_at(sequence, held, None).await;
    }

    /// The same of a worker that says what its clock says.
    pub async fn heartbeat_at(&mut self, sequence: u64, held: Vec<HeldAttempt>, clock: Option<ClockReading>) {
        let heartbeat = Heartbeat { sequence, held: Some(held), stats: MachineStats::default(), clock };
        self.say(&[ToMaster::Heartbeat(Box::new(heartbeat))]).await;
        let mut kept = VecDeque::new();
        loop {
            match self.hear().await.expect("the session is over") {
                ToWorker::Alive { sequence: answered } if answered == sequence => break,
                other => kept.push_back(other),
            }
        }
        kept.append(&mut self.inbox);
        self.inbox = kept;
    }

    /// From now on nothing is heard of it but what the test says.
    pub fn fall_silent(&self) {
        self.pings.abort();
    }

    /// Leaves without a goodbye.
    pub fn hang_up(self) {}
}

/// What a goodbye says; anything else is a failure of the test.
pub fn goodbye(heard: Option<ToWorker>) -> (GoodbyeCode, String) {
    match heard {
        Some(ToWorker::Goodbye { code, message }) => (code, message),
        other => panic!("expected a goodbye, heard {other:?}"),
    }
}

/// The report of an end.
pub fn ended(attempt: AttemptRef, end: AttemptEnd, output_bytes: u64) -> Ended {
    let now = chrono::Utc::now();
    Ended {
        attempt,
        end,
        started_at: Some(now),
        ended_at: now,
        ran_micros: 1_000,
        output_bytes,
        output_sha256: None,
        killed: None,
        container: None,
        ports: Vec::new(),
    }
}

/// Says that somebody is there, for as long as the session is.
async fn ping(sink: std::sync::Weak<Mutex<Sink>>) {
    let mut next = tokio::time::interval(SILENCE_LIMIT.to_std() / 5);
    loop {
        next.tick().await;
        let Some(sink) = sink.upgrade() else { return };
        if sink.lock().await.send(Message::Ping(Default::default())).await.is_err() {
            return;
        }
    }
}

async fn read_frame(
    source: &mut (impl StreamExt<Item = Result<Message, Error>> + Unpin),
) -> Option<Vec<ToWorker>> {
    loop {
        match source.next().await? {
            Ok(Message::Text(text)) => {
                return Some(serde_json::from_str(&text).expect("the master talks nonsense"));
            }
            Ok(Message::Close(_)) | Err(_) => return None,
            Ok(_) => {}
        }
    }
}
