//! Formats durations and ages, equally on pages and in the command line. `static/fill.js` continues them in the
//! browser with the same words.

/// `1m12s`: the two largest units that matter.
pub fn lasted(millis: i64) -> String {
    let millis = millis.max(0);
    let seconds = millis / 1_000;
    match seconds {
        0 => format!("{millis}ms"),
        1..10 => format!("{seconds}.{}s", millis % 1_000 / 100),
        10..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// `3m ago`, or `in 3m`. Both times are in milliseconds since 1970.
pub fn ago(then: i64, now: i64) -> String {
    let seconds = (now - then).abs() / 1_000;
    let coarse = match seconds {
        // Two clocks are never quite the same: what happened just now may seem to lie ahead.
        0 => return "now".to_owned(),
        1..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    };
    if then > now { format!("in {coarse}") } else { format!("{coarse} ago") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_have_their_two_largest_units() {
        let cases = [
            (0, "0ms"),
            (999, "999ms"),
            (3_250, "3.2s"),
            (42_900, "42s"),
            (72_000, "1m12s"),
            (3_600_000, "1h00m"),
            (90_000_000, "1d01h"),
            (-5, "0ms"),
        ];
        for (millis, text) in cases {
            assert_eq!(lasted(millis), text);
        }
    }

    #[test]
    fn ages_are_coarse() {
        let cases =
            [(300, "now"), (-300, "now"), (5_000, "5s ago"), (200_000, "3m ago"), (-7_200_000, "in 2h")];
        for (millis, text) in cases {
            assert_eq!(ago(0, millis), text);
        }
    }
}
