//! Workers without processes, for measurements of a master: each keeps a session, and ends an attempt as soon as it hears of it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::bail;
use chrono::Utc;
use futures::stream::SplitSink;
use futures::{SinkExt as _, StreamExt as _};
use gaffer_domain::AttemptRef;
use gaffer_domain::placement::Feature;
use gaffer_domain::quantity::{Bytes, Cpu};
use gaffer_domain::reason::AttemptEnd;
use gaffer_domain::spec::{DriverKind, Resources};
use gaffer_domain::worker::place::Place;
use gaffer_protocol::wire::{
    DriverStatus, Ended, Heartbeat, Hello, MachineStats, PROTOCOL_VERSION, ToMaster, ToWorker, frames,
};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Message;
use uuid::Uuid;

use crate::config::ApiKey;
use crate::connection::dial::{DialError, Dialer, Socket};
use crate::connection::{Backoff, BackoffSettings};
use crate::execution;
use crate::route::Route;

/// What each offers, whatever this machine has: its tasks use nothing.
const CAPACITY: Resources =
    Resources { cpu: Cpu::from_millis(100_000), memory: Bytes(1 << 40), disk: Bytes(1 << 40) };

/// One simulated worker.
#[derive(Debug, Clone)]
pub struct SimulatedWorker {
    pub route: Route,
    pub key: ApiKey,
    pub identity: Uuid,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// Whether it can execute tasks. One that cannot is idle.
    pub takes_tasks: bool,
}

impl SimulatedWorker {
    /// Keeps it connected, with the pauses of a real worker; `connected` counts the workers that are welcome. Returns only with
    /// an error.
    ///
    /// # Errors
    /// When the master refuses it, or this machine has no boot id.
    pub async fn run(&self, connected: &watch::Sender<usize>) -> anyhow::Error {
        match self.try_run(connected).await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn try_run(&self, connected: &watch::Sender<usize>) -> anyhow::Result<std::convert::Infallible> {
        let dialer = Dialer::new(self.route.clone(), Some(&self.key))?;
        let mut backoff = Backoff::new(BackoffSettings::default());
        let process = Uuid::new_v4();
        loop {
            let patience = backoff.connect_patience(Instant::now());
            match Box::pin(dialer.dial(patience)).await {
                Ok(socket) => {
                    let began = Instant::now();
                    let was_welcome = self.session(socket, process, connected).await?;
                    if was_welcome {
                        connected.send_modify(|count| *count -= 1);
                        backoff.session_lasted(began.elapsed());
                    }
                }
                Err(DialError::Unreachable(_)) => {}
                Err(error) => return Err(error.into()),
            }
            tokio::time::sleep(backoff.next(Instant::now())).await;
        }
    }

    /// One session to its end; returns whether there was a welcome.
    async fn session(
        &self,
        socket: Socket,
        process: Uuid,
        connected: &watch::Sender<usize>,
    ) -> anyhow::Result<bool> {
        let (mut to_master, mut from_master) = socket.split();
        let hello = ToMaster::Hello(Box::new(self.hello(process)?));
        let mut is_welcome = false;
        let mut sequence = 0;
        // Until the welcome says how often.
        let mut heartbeat = Duration::from_secs(60);
        let mut next_beat = Instant::now() + heartbeat;
        let mut reports = vec![hello];
        loop {
            if say(&mut to_master, &std::mem::take(&mut reports)).await.is_err() {
                return Ok(is_welcome);
            }
            let frame = tokio::select! {
                frame = from_master.next() => frame,
                () = tokio::time::sleep_until(next_beat.into()) => {
                    sequence += 1;
                    // Nothing is held for longer than a message takes.
                    let held = (sequence == 1).then(Vec::new);
                    let beat = Heartbeat { sequence, held, stats: MachineStats::default(), clock: None };
                    reports.push(ToMaster::Heartbeat(Box::new(beat)));
                    next_beat = Instant::now() + heartbeat;
                    continue;
                }
            };
            let text = match frame {
                Some(Ok(Message::Text(text))) => text,
                Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok(is_welcome),
                Some(Ok(_)) => continue,
            };
            for message in serde_json::from_str::<Vec<ToWorker>>(&text)? {
                match message {
                    ToWorker::Welcome(welcome) => {
                        is_welcome = true;
                        heartbeat = welcome.heartbeat.to_std().max(Duration::from_millis(100));
                        next_beat = Instant::now() + heartbeat;
                        connected.send_modify(|count| *count += 1);
                    }
                    ToWorker::Start(start) => reports.extend(course_of(start.attempt)),
                    ToWorker::Goodbye { message, .. } if !is_welcome => bail!("the master says: {message}"),
                    // Whatever it is about has ended already.
                    _ => {}
                }
            }
        }
    }

    fn hello(&self, process: Uuid) -> anyhow::Result<Hello> {
        let boot_id = execution::boot_id()?;
        let directory = Some(format!("simulated {}", self.identity));
        let driver = DriverStatus { driver: DriverKind::Host, healthy: true, detail: None };
        Ok(Hello {
            protocol: PROTOCOL_VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            identity: self.identity,
            process,
            place: Place { boot_id: boot_id.clone(), directory, ..Place::default() },
            boot_id,
            own_key: None,
            knows_not_allowed: true,
            name: self.name.clone(),
            labels: self.labels.clone(),
            datacenter: String::new(),
            capacity: CAPACITY,
            countables: BTreeMap::new(),
            drivers: if self.takes_tasks { vec![driver] } else { Vec::new() },
            features: Feature::ALL.map(|feature| feature.as_str().to_owned()).into(),
            arch: std::env::consts::ARCH.to_owned(),
            os: "linux".to_owned(),
            held: Vec::new(),
            warnings: Vec::new(),
        })
    }
}

/// All that there is to say of an attempt.
fn course_of(attempt: AttemptRef) -> [ToMaster; 2] {
    let now = Utc::now();
    let sha256: String = Sha256::digest(b"").iter().map(|byte| format!("{byte:02x}")).collect();
    let ended = Ended {
        attempt,
        end: AttemptEnd::Exited { code: 0 },
        started_at: Some(now),
        ended_at: now,
        ran_micros: 1,
        output_bytes: 0,
        output_sha256: Some(sha256),
        killed: None,
        container: None,
        ports: Vec::new(),
    };
    [
        ToMaster::Started { attempt, at: now, container: None, ports: Vec::new() },
        ToMaster::Ended(Box::new(ended)),
    ]
}

async fn say(to_master: &mut SplitSink<Socket, Message>, messages: &[ToMaster]) -> anyhow::Result<()> {
    for text in frames(messages)? {
        to_master.feed(Message::text(text)).await?;
    }
    Ok(to_master.flush().await?)
}
