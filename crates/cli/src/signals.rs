//! Signals that an attached command receives, and the action of each.

use std::fs;
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Ctrl-C.
    Interrupt,
    /// `kill`.
    Terminate,
    Hangup,
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Hand the signal on to the job's processes.
    Forward,
    /// Stop the job.
    Stop,
    /// Leave the job alone and exit with this code.
    Leave(u8),
}

impl Order {
    /// The exit code of a process that this signal ended.
    pub fn exit_code(self) -> u8 {
        match self {
            Order::Hangup => 129,
            Order::Interrupt => 130,
            Order::Terminate => 143,
        }
    }
}

/// How far repeated signals have escalated.
#[derive(Debug, Default)]
pub struct Insistence {
    stage: u8,
}

impl Insistence {
    /// The first Ctrl-C is the job's, the second stops it, the third leaves. A TERM stops it, anything after that leaves. A
    /// HUP leaves.
    pub fn step(&mut self, order: Order) -> Step {
        self.stage = match order {
            Order::Interrupt => self.stage.saturating_add(1),
            Order::Terminate if self.stage < 2 => 2,
            Order::Terminate | Order::Hangup => 3,
        };
        match self.stage {
            1 => Step::Forward,
            2 => Step::Stop,
            _ => Step::Leave(order.exit_code()),
        }
    }
}

/// Hears the signals from now on, instead of being ended by them.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<Signal>,
}

impl Signals {
    /// Starts to listen. SIGHUP stays ignored under `nohup`.
    ///
    /// # Errors
    /// Those of the system.
    pub fn listen() -> io::Result<Signals> {
        let hangup = SignalKind::hangup();
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: if is_ignored(hangup) { None } else { Some(signal(hangup)?) },
        })
    }

    pub async fn next(&mut self) -> Order {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => Order::Interrupt,
            _ = self.terminate.recv() => Order::Terminate,
            _ = hangup => Order::Hangup,
        }
    }
}

/// Whether this process was started with a signal ignored; no where the system does not say.
fn is_ignored(signal: SignalKind) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal.as_raw_value() - 1) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(orders: &[Order]) -> Vec<Step> {
        let mut insistence = Insistence::default();
        orders.iter().map(|order| insistence.step(*order)).collect()
    }

    #[test]
    fn insisting_goes_further_each_time() {
        use Order::*;
        use Step::*;
        assert_eq!(steps(&[Interrupt, Interrupt, Interrupt]), [Forward, Stop, Leave(130)]);
        assert_eq!(steps(&[Terminate, Terminate]), [Stop, Leave(143)]);
        assert_eq!(steps(&[Interrupt, Terminate, Interrupt]), [Forward, Stop, Leave(130)]);
        assert_eq!(steps(&[Terminate, Interrupt]), [Stop, Leave(130)]);
        assert_eq!(steps(&[Hangup]), [Leave(129)]);
        assert_eq!(steps(&[Interrupt, Hangup]), [Forward, Leave(129)]);
    }
}
