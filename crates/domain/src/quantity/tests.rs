#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fmt::Debug;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;

fn cpu(value: Value) -> Result<u64, String> {
    serde_json::from_value::<Cpu>(value).map(|cpu| cpu.millis().into()).map_err(|why| why.to_string())
}

fn bytes(value: Value) -> Result<u64, String> {
    serde_json::from_value::<Bytes>(value).map(Bytes::get).map_err(|why| why.to_string())
}

fn millis(value: Value) -> Result<u64, String> {
    serde_json::from_value::<Span>(value).map(Span::as_millis).map_err(|why| why.to_string())
}

#[test]
fn processors_are_read_from_numbers_and_texts() {
    for (form, thousandths) in [
        (json!(0), 0),
        (json!(2), 2000),
        (json!(2.0), 2000),
        (json!(0.5), 500),
        (json!(0.001), 1),
        (json!("1.5"), 1500),
        (json!(".5"), 500),
        (json!("500m"), 500),
        (json!(" 250 m "), 250),
        (json!("4294967.295"), u32::MAX.into()),
    ] {
        assert_eq!(cpu(form.clone()), Ok(thousandths), "{form}");
    }
}

#[test]
fn processors_computed_in_floating_point_are_rounded_to_the_nearest_thousandth() {
    assert_eq!(cpu(json!(0.1 + 0.2)), Ok(300));
    assert_eq!(cpu(json!(1.0 / 3.0)), Ok(333));
    assert_eq!(cpu(json!(2.0 / 3.0)), Ok(667));
}

#[test]
fn bytes_are_read_with_binary_and_decimal_units() {
    for (form, count) in [
        (json!(0), 0),
        (json!(4096), 4096),
        (json!("4096"), 4096),
        (json!(1048576.0), 1 << 20),
        (json!("7B"), 7),
        (json!("100k"), 100_000),
        (json!("100kB"), 100_000),
        (json!("100KB"), 100_000),
        (json!("1KiB"), 1024),
        (json!("512MiB"), 512 << 20),
        (json!("512mib"), 512 << 20),
        (json!("512 MiB"), 512 << 20),
        (json!("1.5GiB"), 3 << 29),
        (json!("2GB"), 2_000_000_000),
        (json!("2G"), 2_000_000_000),
        (json!("3TB"), 3_000_000_000_000),
        (json!("1TiB"), 1 << 40),
        (json!("1PiB"), 1 << 50),
        (json!(u64::MAX), u64::MAX),
        (json!(u64::MAX.to_string()), u64::MAX),
    ] {
        assert_eq!(bytes(form.clone()), Ok(count), "{form}");
    }
}

#[test]
fn lengths_of_time_are_read_from_units_and_bare_seconds() {
    for (form, count) in [
        (json!(0), 0),
        (json!("0s"), 0),
        (json!(30), 30_000),
        (json!(0.5), 500),
        (json!("0.5"), 500),
        (json!("30s"), 30_000),
        (json!("5m"), 300_000),
        (json!("1h30m"), 5_400_000),
        (json!("1h 30m"), 5_400_000),
        (json!("1.5h"), 5_400_000),
        (json!("250ms"), 250),
        (json!("1s500ms"), 1500),
        (json!("2d"), 172_800_000),
        (json!("36500d"), Span::MAX.as_millis()),
    ] {
        assert_eq!(millis(form.clone()), Ok(count), "{form}");
    }
}

#[test]
fn what_is_not_an_amount_is_refused_with_the_reason_and_an_example() {
    for (found, reason) in [
        (cpu(json!("two")), "`two` is not a number of processors: write processors such as 0.5"),
        (cpu(json!(-1)), "`-1` is negative"),
        (cpu(json!(-0.5)), "`-0.5` is negative"),
        (cpu(json!(5_000_000)), "`5000000` is too large"),
        (cpu(json!(1e300)), "…` is too large"),
        (cpu(json!(0.0001)), "`0.0001` is finer than a thousandth of a processor"),
        (cpu(json!(1e-300)), "is finer than"),
        (cpu(json!("1.5m")), "is finer than"),
        (cpu(json!("NaN")), "`NaN` is not"),
        (cpu(json!("inf")), "`inf` is not"),
        (cpu(json!("1e3")), "`1e3` is not"),
        (cpu(json!(true)), "expected a number of processors (write processors such as 0.5"),
        (bytes(json!("")), "an empty text is not a number of bytes"),
        (bytes(json!(".")), "`.` is not"),
        (bytes(json!("1.2.3k")), "`1.2.3k` is not"),
        (bytes(json!("5m")), "`5m` is not"),
        (bytes(json!("5 parsecs")), "`5 parsecs` is not a number of bytes"),
        (bytes(json!("-5MiB")), "`-5MiB` is negative"),
        (bytes(json!(0.5)), "`0.5` is finer than a byte"),
        (bytes(json!("0.0001KiB")), "is finer than a byte"),
        (bytes(json!("18446744073709551616")), "is too large"),
        (bytes(json!("99999999999PiB")), "is too large"),
        (bytes(json!("9".repeat(5000))), "9…` is too large"),
        (bytes(json!("½GiB")), "`½GiB` is not"),
        (bytes(json!("a\nb")), r"`a\nb` is not"),
        (millis(json!("5 minutes")), "`5 minutes` is not a length of time"),
        (millis(json!("30m1h")), "`30m1h` is not"),
        (millis(json!("1h1h")), "`1h1h` is not"),
        (millis(json!("1h30")), "`1h30` is not"),
        (millis(json!("30 30s")), "`30 30s` is not"),
        (millis(json!("0.1ms")), "is finer than a millisecond"),
        (millis(json!("36501d")), "is too large"),
        (millis(json!(u64::MAX)), "is too large"),
        (millis(json!([1])), "expected a length of time"),
    ] {
        match found {
            Ok(amount) => panic!("read as {amount}, although it {reason}"),
            Err(sentence) => assert!(sentence.contains(reason), "{sentence:?} does not say {reason:?}"),
        }
    }
}

#[test]
fn amounts_are_written_in_their_plainest_exact_form() {
    fn written<T: Display + Serialize>(amount: T) -> (String, Value) {
        (amount.to_string(), serde_json::to_value(amount).unwrap())
    }
    for (written, shown, json) in [
        (written(Cpu::from_millis(0)), "0", json!(0)),
        (written(Cpu::from_millis(500)), "0.5", json!(0.5)),
        (written(Cpu::from_millis(2000)), "2", json!(2)),
        (written(Cpu::from_millis(1234)), "1.234", json!(1.234)),
        (written(Bytes(0)), "0B", json!(0)),
        (written(Bytes(1500)), "1500B", json!(1500)),
        (written(Bytes(512 << 20)), "512MiB", json!("512MiB")),
        (written(Bytes(3 << 29)), "1536MiB", json!("1536MiB")),
        (written(Bytes(2_000_000_000)), "2GB", json!("2GB")),
        (written(Bytes(1 << 50)), "1PiB", json!("1PiB")),
        (written(Bytes(u64::MAX)), "18446744073709551615B", json!(u64::MAX)),
        (written(Span::from_millis(0)), "0s", json!("0s")),
        (written(Span::from_millis(1500)), "1s500ms", json!("1s500ms")),
        (written(Span::from_secs(120)), "2m", json!("2m")),
        (written(Span::from_secs(5400)), "1h30m", json!("1h30m")),
        (written(Span::from_secs(7 * 86_400)), "7d", json!("7d")),
        (written(Span::from_secs(u64::MAX)), "36500d", json!("36500d")),
    ] {
        assert_eq!(written, (shown.to_owned(), json));
    }
}

#[test]
fn any_amount_that_is_written_reads_back_the_same() {
    fn check<T>(amount: T)
    where
        T: Copy + PartialEq + Debug + Display + Serialize + DeserializeOwned + FromStr<Err = QuantityError>,
    {
        let json = serde_json::to_string(&amount).unwrap();
        assert_eq!(serde_json::from_str::<T>(&json).unwrap(), amount, "{json}");
        let value = serde_json::to_value(amount).unwrap();
        assert_eq!(serde_json::from_value::<T>(value).unwrap(), amount, "{json}");
        assert_eq!(amount.to_string().parse::<T>().unwrap(), amount, "{amount}");
    }

    let mut rng = StdRng::seed_from_u64(1);
    for _ in 0..20_000 {
        // Shifts and products reach all magnitudes and all units.
        let number = rng.random::<u64>() >> rng.random_range(0..64);
        let factor = [1, 10, 1000, 1024, 60_000, 3_600_000, 1 << 20, 1_000_000][rng.random_range(0..8)];
        let number = number.saturating_mul(factor);
        check(Cpu::from_millis(u32::try_from(number).unwrap_or(u32::MAX)));
        check(Bytes(number));
        check(Span::from_millis(number));
    }
}

#[test]
fn no_text_makes_a_reader_panic_and_what_it_takes_it_can_write() {
    let mut rng = StdRng::seed_from_u64(2);
    let alphabet: Vec<char> = "00123456789..-+eE kKMGiBbmshd\u{0}é∞".chars().collect();
    for _ in 0..50_000 {
        let text: String =
            (0..rng.random_range(0..24)).map(|_| alphabet[rng.random_range(0..alphabet.len())]).collect();
        if let Ok(amount) = text.parse::<Cpu>() {
            assert_eq!(amount.to_string().parse(), Ok(amount), "{text:?}");
        }
        if let Ok(amount) = text.parse::<Bytes>() {
            assert_eq!(amount.to_string().parse(), Ok(amount), "{text:?}");
        }
        if let Ok(amount) = text.parse::<Span>() {
            assert_eq!(amount.to_string().parse(), Ok(amount), "{text:?}");
        }
    }
}

#[test]
fn sums_and_differences_stay_within_their_bounds() {
    assert_eq!(Cpu::from_millis(u32::MAX).saturating_add(Cpu::from_millis(1)), Cpu::from_millis(u32::MAX));
    assert_eq!(Cpu::from_millis(1).saturating_sub(Cpu::from_millis(2)), Cpu::default());
    assert_eq!(Bytes(u64::MAX).saturating_add(Bytes(1)), Bytes(u64::MAX));
    assert_eq!(Bytes(1).saturating_sub(Bytes(2)), Bytes(0));
    assert_eq!(Span::from_secs(2).to_std(), Duration::from_secs(2));
}
