//! Generates traces with realistic shapes; a seed always gives the same trace.
//!
//! | shape | what it is like |
//! |---|---|
//! | [`Shape::HeavyTail`] | tasks of four projects at random moments, some of them urgent; durations from a bounded Pareto distribution |
//! | [`Shape::Bursts`] | one project submits hundreds of short tasks at once, now and then, while two others trickle |
//! | [`Shape::MixedSizes`] | four fifths are small, and one in twenty needs most of a machine |
//!
//! Submissions are a Poisson process. Durations as in process lifetimes (Harchol-Balter, Downey, *Exploiting Process
//! Lifetime Distributions for Dynamic Load Balancing*, ACM TOCS 15(3), 1997): Pareto with α = 1.1, here from 5 s to 1 h.
//! Random numbers are SplitMix64 (Steele, Lea, Flood, *Fast Splittable Pseudorandom Number Generators*, OOPSLA 2014).

use gaffer_domain::quantity::{Bytes, Cpu, Span};
use gaffer_protocol::trace::Arrival;

const MIB: u64 = 1 << 20;
const PARETO_ALPHA: f64 = 1.1;
const SHORTEST_SECS: f64 = 5.0;
const LONGEST_SECS: f64 = 3_600.0;

/// What a trace is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Durations of all magnitudes.
    HeavyTail,
    /// Many tasks at once.
    Bursts,
    /// Small tasks beside large ones.
    MixedSizes,
}

impl Shape {
    /// All of them, by name.
    pub const ALL: [(&'static str, Shape); 3] =
        [("heavy_tail", Shape::HeavyTail), ("bursts", Shape::Bursts), ("mixed_sizes", Shape::MixedSizes)];
}

/// A trace with this many submissions.
pub fn generate(shape: Shape, seed: u64, submissions: usize) -> Vec<Arrival> {
    let mut random = SplitMix64(seed);
    let mut secs = 0.0;
    (0..submissions)
        .map(|_| {
            let (mean_gap_secs, arrival) = match shape {
                Shape::HeavyTail => (1.5, heavy_tail(&mut random)),
                Shape::Bursts => (4.0, burst_or_trickle(&mut random)),
                Shape::MixedSizes => (1.4, mixed(&mut random)),
            };
            secs += -mean_gap_secs * (1.0 - random.unit()).ln();
            Arrival { submit: millis(secs), ..arrival }
        })
        .collect()
}

fn heavy_tail(random: &mut SplitMix64) -> Arrival {
    let (cpu, mib) =
        random.one_of(&[(500, 512), (1_000, 1_024), (1_000, 4_096), (2_000, 2_048), (4_000, 8_192)]);
    let project = random.one_of(&["vision", "vision", "speech", "build", "ops"]);
    let count = random.one_of(&[1, 1, 1, 2, 4]);
    let disk = Bytes(random.one_of(&[0, 512, 4_096]) * MIB);
    let priority = random.one_of(&[50, 50, 50, 80]);
    Arrival { disk, priority, ..arrival(random.pareto_secs(), cpu, mib, count, project) }
}

fn burst_or_trickle(random: &mut SplitMix64) -> Arrival {
    if random.unit() < 0.02 {
        let count = 100 + (random.unit() * 300.0) as u32;
        return arrival(5.0 + 25.0 * random.unit(), 1_000, 1_024, count, "batch");
    }
    let project = random.one_of(&["web", "lab"]);
    let (cpu, mib) = random.one_of(&[(500, 256), (1_000, 2_048), (2_000, 4_096)]);
    arrival(10.0 + 110.0 * random.unit(), cpu, mib, 1, project)
}

fn mixed(random: &mut SplitMix64) -> Arrival {
    let project = random.one_of(&["small", "medium", "large"]);
    let draw = random.unit();
    let secs = 20.0 + random.pareto_secs().min(900.0);
    match draw {
        draw if draw < 0.80 => arrival(secs, random.one_of(&[250, 500, 1_000]), 512, 2, project),
        draw if draw < 0.95 => arrival(secs, 2_000, random.one_of(&[2_048, 10_240]), 1, project),
        _ => arrival(secs, 7_000, 12_288, 1, project),
    }
}

fn arrival(secs: f64, cpu_millis: u32, memory_mib: u64, count: u32, project: &str) -> Arrival {
    Arrival {
        submit: Span::default(),
        duration: millis(secs),
        cpu: Cpu::from_millis(cpu_millis),
        memory: Bytes(memory_mib * MIB),
        disk: Bytes(0),
        count,
        priority: 50,
        project: project.to_owned(),
    }
}

fn millis(secs: f64) -> Span {
    Span::from_millis((secs * 1e3) as u64)
}

struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to less than 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[(self.next() % choices.len() as u64) as usize]
    }

    /// Bounded Pareto, by inverting its distribution function.
    fn pareto_secs(&mut self) -> f64 {
        let ratio = (SHORTEST_SECS / LONGEST_SECS).powf(PARETO_ALPHA);
        SHORTEST_SECS / (1.0 - self.unit() * (1.0 - ratio)).powf(1.0 / PARETO_ALPHA)
    }
}
