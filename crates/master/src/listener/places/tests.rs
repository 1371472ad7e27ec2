#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;

fn peer(host: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host], 4_000))
}

fn admitted(places: &Arc<Places>, from: SocketAddr) -> Place {
    match places.admit(from, Instant::now()) {
        Admission::Welcome(place) => place,
        Admission::Full => panic!("there is no place"),
    }
}

fn must_go(place: &Place) -> bool {
    place.0.closing().is_cancelled()
}

#[test]
fn a_newcomer_takes_the_place_of_the_first_silent_one() {
    let places = Places::new(PlaceLimits { all: 4, unproven: 3, unproven_of_address: 3 });
    let (busy, first, second) =
        (admitted(&places, peer(1)), admitted(&places, peer(2)), admitted(&places, peer(3)));
    busy.0.request_begins();
    let newcomer = admitted(&places, peer(4));
    assert!(must_go(&first) && !must_go(&busy) && !must_go(&second) && !must_go(&newcomer));
}

#[test]
fn a_proven_client_keeps_a_place_whatever_comes() {
    let places = Places::new(PlaceLimits { all: 4, unproven: 3, unproven_of_address: 3 });
    let worker = admitted(&places, peer(1));
    worker.0.prove();
    let flood: Vec<Place> = (0..100).map(|n| admitted(&places, peer(2 + n))).collect();
    assert!(!must_go(&worker));
    assert_eq!(flood.iter().filter(|place| !must_go(place)).count(), 3);
    assert_eq!(places.count(), (4, 1));
    assert_eq!((places.take_dropped(), places.take_dropped()), (97, 0));
}

#[test]
fn a_port_with_proven_connections_only_takes_no_more() {
    let places = Places::new(PlaceLimits { all: 2, unproven: 1, unproven_of_address: 1 });
    let proven: Vec<Place> =
        (0..2).map(|n| admitted(&places, peer(n))).inspect(|place| place.0.prove()).collect();
    assert!(matches!(places.admit(peer(9), Instant::now()), Admission::Full));
    drop(proven);
    admitted(&places, peer(9));
}

#[test]
fn an_address_takes_places_from_itself_alone() {
    let places = Places::new(PlaceLimits::new(40, 5));
    let other = admitted(&places, peer(1));
    let crowd: Vec<Place> = (0..100).map(|_| admitted(&places, peer(2))).collect();
    assert!(!must_go(&other));
    assert_eq!(crowd.iter().filter(|place| !must_go(place)).count(), 5);
}

#[test]
fn a_place_is_free_again_once_its_socket_is_gone() {
    let places = Places::new(PlaceLimits { all: 3, unproven: 2, unproven_of_address: 2 });
    for _ in 0..1_000 {
        let place = admitted(&places, peer(1));
        place.0.prove();
    }
    assert_eq!(places.count(), (0, 0));
    assert_eq!(places.lock().open, 0);
    assert!(places.lock().of_address.is_empty());
}

#[test]
fn silence_has_an_end_and_work_has_none() {
    let timeouts = Timeouts::default();
    let places = Places::new(PlaceLimits::new(40, 20));
    let start = Instant::now();
    let after = |seconds| start + Duration::from_secs(seconds);
    let (silent, halfway, working, idle, session) = (
        admitted(&places, peer(1)),
        admitted(&places, peer(2)),
        admitted(&places, peer(3)),
        admitted(&places, peer(4)),
        admitted(&places, peer(5)),
    );
    halfway.0.heard();
    working.0.request_begins();
    idle.0.request_begins();
    idle.0.request_ends();
    session.0.becomes_session();
    assert_eq!(places.sweep(after(9), &timeouts), 0);
    assert_eq!(places.sweep(after(12), &timeouts), 2);
    assert!(must_go(&silent) && must_go(&halfway) && !must_go(&idle));
    assert_eq!(places.sweep(after(80), &timeouts), 1);
    assert!(must_go(&idle));
    assert_eq!(places.sweep(after(100_000), &timeouts), 0);
    assert!(!must_go(&working) && !must_go(&session));
}

#[test]
fn an_answer_that_nobody_takes_ends_unless_it_is_for_somebody_proven() {
    let places = Places::new(PlaceLimits::new(40, 20));
    let (stranger, viewer) = (admitted(&places, peer(1)), admitted(&places, peer(2)));
    viewer.0.prove();
    for place in [&stranger, &viewer] {
        place.0.request_begins();
        place.0.takes(false);
    }
    places.sweep(Instant::now() + Duration::from_secs(61), &Timeouts::default());
    assert!(must_go(&stranger) && !must_go(&viewer));
}

#[test]
fn ports_share_the_files_that_there_are() {
    for files in [256_u64, 1_024, 20_000, 1 << 30] {
        let shares = shares(files, None);
        let all: u64 = shares.iter().map(|share| u64::from(share + CLOSING)).sum();
        assert!(all <= files && shares.iter().all(|share| *share > 0), "{files}: {shares:?}");
        assert!(all + OWN_FILES.min(files / 4) <= files, "{files}: {shares:?}");
    }
    assert_eq!(shares(1_024, None), [208, 208, 432]);
    assert_eq!(shares(1 << 20, Some(500)), [500; 3]);
}

#[test]
fn networks_of_ipv6_count_as_one_address() {
    let network = |text: &str| network_of(text.parse().unwrap());
    assert_eq!(network("2001:db8::1"), network("2001:db8::ffff:1:2:3"));
    assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
    assert_eq!(network("::ffff:10.0.0.1"), network("10.0.0.1"));
}
