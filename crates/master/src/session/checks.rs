//! Checks the range of every number, time and text of a worker's messages.
//!
//! Every message is taken apart here field by field, so that a new field does not compile until its range is decided.
//!
//! | what | range | outside of it |
//! |---|---|---|
//! | attempt | task from 1, number from 1 to 2³¹−1 | refused |
//! | times: start, end, output | from 2000 to a day after the master's time | the master's time |
//! | `ran_micros` | up to a hundred years | cut |
//! | `output_bytes`, offsets | up to 2⁶³−1, and no more than has arrived | refused |
//! | `output_sha256`, the hash of an own key | 64 hexadecimal digits | refused |
//! | the beginning of an own key | that of a worker key, ten letters and digits | refused |
//! | exit codes | any of 32 bits | |
//! | signals | 1 to 64 | refused |
//! | limits that were exceeded | up to 2⁶³−1 bytes | refused |
//! | processes killed or left | any of 32 bits | |
//! | readings: shares, loads | a share 0 to 1, a load 0 to a million | cut; none if it is no number |
//! | readings: bytes | up to 2⁶³−1 | cut |
//! | countable resources | up to a million of each | cut |
//! | processors | up to 2³¹−1 thousandths | cut |
//! | memory, disk offered | up to 2⁶³−1 bytes | refused |
//! | texts, lists | see [`clean`](super::clean) | cut, refused if there are too many |
//! | results of checks: number, state before, time from the start | any | |
//! | `sequence`, `protocol`, identities, the reading of the clock | any | |

use chrono::{DateTime, TimeDelta, Utc};
use gaffer_domain::quantity::Bytes;
use gaffer_domain::reason::{AttemptEnd, ProcessEnd};
use gaffer_domain::{AttemptRef, Time};
use gaffer_protocol::health::{CheckResult, Checked, MAX_DETAIL_CHARS};
use gaffer_protocol::keys::{SHOWN_CHARS, WORKER_KEY};
use gaffer_protocol::output::{Chunk, EncodedChunk};
use gaffer_protocol::wire::{ContainerFacts, Ended, Heartbeat, HeldAttempt, Hello, MachineStats, ToMaster};

use super::SessionEnd;
use super::clean::{MAX_TEXT_CHARS, clean, cleaned_facts, cleaned_ports};

/// 2000-01-01: no worker is older.
const EARLIEST_SECS: i64 = 946_684_800;
/// How far a worker's clock may be ahead.
const MAX_AHEAD: TimeDelta = TimeDelta::days(1);
const MAX_RAN_MICROS: u64 = 100 * 366 * 24 * 3_600 * 1_000_000;
const MAX_COUNT: u32 = 1_000_000;
const MAX_LOAD: f64 = 1e6;

/// A message that makes sense, or why it does not. `ours` makes a time of the master's clock of one of the worker's.
pub(super) fn checked(
    message: ToMaster,
    now: Time,
    ours: impl Fn(Time) -> Time,
) -> Result<ToMaster, SessionEnd> {
    Ok(match message {
        ToMaster::Hello(hello) => ToMaster::Hello(Box::new(checked_hello(*hello)?)),
        ToMaster::Heartbeat(heartbeat) => {
            let Heartbeat { sequence, held, stats, clock } = *heartbeat;
            held.as_deref().map_or(Ok(()), check_held)?;
            ToMaster::Heartbeat(Box::new(Heartbeat { sequence, held, stats: checked_stats(stats), clock }))
        }
        ToMaster::Started { attempt, at, container, ports } => {
            check_attempt(attempt)?;
            ToMaster::Started {
                attempt,
                at: sensible(ours(at), now),
                container: container.and_then(cleaned_facts),
                ports: cleaned_ports(ports),
            }
        }
        ToMaster::Noted { attempt, message } => {
            check_attempt(attempt)?;
            ToMaster::Noted { attempt, message }
        }
        ToMaster::Drivers { drivers } => {
            ToMaster::Drivers { drivers: super::clean::cleaned_drivers(drivers)? }
        }
        ToMaster::SecretsWanted { attempt } => {
            check_attempt(attempt)?;
            ToMaster::SecretsWanted { attempt }
        }
        ToMaster::InputTaken(taken) => {
            check_attempt(taken.attempt)?;
            ToMaster::InputTaken(taken)
        }
        ToMaster::Checked(checked) => {
            let Checked { attempt, check, number, before, is_whole, result } = *checked;
            check_attempt(attempt)?;
            let CheckResult { at, after_millis, passed, took_micros, detail } = result;
            let result = CheckResult {
                at: sensible(ours(at), now),
                after_millis,
                passed,
                took_micros: took_micros.min(MAX_RAN_MICROS),
                detail: clean(&detail, MAX_DETAIL_CHARS),
            };
            ToMaster::Checked(Box::new(Checked { attempt, check, number, before, is_whole, result }))
        }
        ToMaster::Ended(ended) => ToMaster::Ended(Box::new(checked_end(*ended, now, ours)?)),
        ToMaster::Returned { attempt } => {
            check_attempt(attempt)?;
            ToMaster::Returned { attempt }
        }
    })
}

/// A chunk with times that make sense.
pub(super) fn checked_chunk(
    encoded: EncodedChunk,
    mut chunk: Chunk,
    now: Time,
) -> Result<(EncodedChunk, Chunk), SessionEnd> {
    check_attempt(chunk.attempt)?;
    let micros = |time: Time| u64::try_from(time.timestamp_micros()).unwrap_or(0);
    let (earliest, latest) = (EARLIEST_SECS as u64 * 1_000_000, micros(now + MAX_AHEAD));
    let makes_sense = |at_micros: u64| (earliest..=latest).contains(&at_micros);
    if chunk.records.iter().all(|record| makes_sense(record.at_micros)) {
        return Ok((encoded, chunk));
    }
    for record in &mut chunk.records {
        if !makes_sense(record.at_micros) {
            record.at_micros = micros(now);
        }
    }
    let bytes = chunk.payload_bytes;
    let encoded = chunk.encode();
    match encoded.decode() {
        // As it is read back: time never goes back within a chunk.
        Ok(chunk) if chunk.payload_bytes == bytes => Ok((encoded, chunk)),
        _ => Err(SessionEnd::protocol("the times of a chunk of output are out of range")),
    }
}

fn checked_hello(hello: Hello) -> Result<Hello, SessionEnd> {
    let Hello {
        protocol,
        version,
        identity,
        process,
        boot_id,
        own_key,
        knows_not_allowed,
        name,
        labels,
        datacenter,
        capacity,
        mut countables,
        drivers,
        features,
        arch,
        os,
        held,
        warnings,
        place,
    } = hello;
    check_held(&held)?;
    if own_key.as_ref().is_some_and(|key| !is_sha256(&key.sha256) || !is_beginning(&key.prefix)) {
        return Err(SessionEnd::protocol("the key that the worker has made has no hash or no beginning"));
    }
    countables.values_mut().for_each(|count| *count = (*count).min(MAX_COUNT));
    Ok(Hello {
        protocol,
        version,
        identity,
        process,
        boot_id,
        own_key,
        knows_not_allowed,
        name,
        labels,
        datacenter,
        capacity,
        countables,
        drivers,
        features,
        arch,
        os,
        held,
        warnings,
        place,
    })
}

/// Whether a worker key may begin like this.
fn is_beginning(text: &str) -> bool {
    let rest = text.strip_prefix(WORKER_KEY).unwrap_or_default();
    text.len() == SHOWN_CHARS && !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn checked_end(ended: Ended, now: Time, ours: impl Fn(Time) -> Time) -> Result<Ended, SessionEnd> {
    let Ended {
        attempt,
        end,
        started_at,
        ended_at,
        ran_micros,
        output_bytes,
        output_sha256,
        killed,
        container,
        ports,
    } = ended;
    check_attempt(attempt)?;
    if i64::try_from(output_bytes).is_err() {
        return Err(SessionEnd::protocol(format!("attempt {attempt} has {output_bytes} bytes of output?")));
    }
    if output_sha256.as_ref().is_some_and(|sum| !is_sha256(sum)) {
        return Err(SessionEnd::protocol(format!("the checksum of attempt {attempt} is no SHA-256")));
    }
    Ok(Ended {
        attempt,
        end: checked_cause(end)?,
        started_at: started_at.map(|at| sensible(ours(at), now)),
        ended_at: sensible(ours(ended_at), now),
        ran_micros: ran_micros.min(MAX_RAN_MICROS),
        output_bytes,
        output_sha256,
        killed,
        container: container.and_then(|facts: ContainerFacts| cleaned_facts(facts)),
        ports: cleaned_ports(ports),
    })
}

fn checked_cause(end: AttemptEnd) -> Result<AttemptEnd, SessionEnd> {
    let check_process = |process: &ProcessEnd| match process {
        ProcessEnd::Code(_) => Ok(()),
        ProcessEnd::Signal(signal) => check_signal(*signal),
    };
    match &end {
        AttemptEnd::Signalled { signal } => check_signal(*signal)?,
        AttemptEnd::TimedOut { limit: _, process } => check_process(process)?,
        AttemptEnd::OutputLimit { limit, process } => {
            if limit.get() > i64::MAX as u64 {
                return Err(SessionEnd::protocol("an output limit is out of range"));
            }
            check_process(process)?;
        }
        AttemptEnd::Stopped { process: Some(process) } => check_process(process)?,
        AttemptEnd::StartFailed { exit_code, message } => {
            let message = clean(message, MAX_TEXT_CHARS);
            return Ok(AttemptEnd::StartFailed { exit_code: *exit_code, message });
        }
        AttemptEnd::Unhealthy { message, process } => {
            check_process(process)?;
            let message = clean(message, MAX_TEXT_CHARS);
            return Ok(AttemptEnd::Unhealthy { message, process: *process });
        }
        AttemptEnd::Exited { code: _ }
        | AttemptEnd::OutOfMemory
        | AttemptEnd::Stopped { process: None }
        | AttemptEnd::Lost { cause: _ } => {}
    }
    Ok(end)
}

fn checked_stats(stats: MachineStats) -> MachineStats {
    let MachineStats { cpu, memory_used, memory_total, load, disk_used, disk_total } = stats;
    let bytes = |bytes: Bytes| Bytes(bytes.get().min(i64::MAX as u64));
    MachineStats {
        cpu: cpu.filter(|share| share.is_finite()).map(|share| share.clamp(0.0, 1.0)),
        memory_used: bytes(memory_used),
        memory_total: bytes(memory_total),
        load: load.map(|load| if load.is_finite() { load.clamp(0.0, MAX_LOAD) } else { 0.0 }),
        disk_used: bytes(disk_used),
        disk_total: bytes(disk_total),
    }
}

/// The time that a worker states, or the master's if no clock can be so wrong.
fn sensible(stated: Time, now: Time) -> Time {
    let earliest = DateTime::<Utc>::from_timestamp_secs(EARLIEST_SECS).unwrap_or(DateTime::UNIX_EPOCH);
    match (earliest..=now + MAX_AHEAD).contains(&stated) {
        true => stated,
        false => now,
    }
}

fn check_held(held: &[HeldAttempt]) -> Result<(), SessionEnd> {
    held.iter().try_for_each(|HeldAttempt { attempt, phase: _ }| check_attempt(*attempt))
}

fn check_attempt(attempt: AttemptRef) -> Result<(), SessionEnd> {
    match attempt.task.0 > 0 && attempt.attempt > 0 && i32::try_from(attempt.attempt).is_ok() {
        true => Ok(()),
        false => Err(SessionEnd::protocol(format!("no such attempt: {attempt}"))),
    }
}

fn check_signal(signal: i32) -> Result<(), SessionEnd> {
    match (1..=64).contains(&signal) {
        true => Ok(()),
        false => Err(SessionEnd::protocol(format!("no such signal: {signal}"))),
    }
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests;
