//! Output while it moves: its chunks are joined meanwhile, or only some of its parts have moved.

use gaffer_domain::AttemptRef;
use gaffer_e2e::client::Client;
use gaffer_master::background::driver::Background as _;
use gaffer_master::output_store::NewObject;
use gaffer_master::store::output::ChunkRow;
use gaffer_protocol::output::{ChunkBuilder, Stream};

use super::noise;
use super::scene::{Kind, Scene};

/// Two of these fit into a chunk, and the master does not join them itself.
const PIECE: usize = 120_000;

fn pieces(output: &[u8]) -> Vec<(Stream, Vec<u8>)> {
    output.chunks(PIECE).map(|piece| (Stream::Stdout, piece.to_vec())).collect()
}

/// Joins the chunk at an offset with the next one, as the master joins small ones.
async fn join(scene: &mut Scene, attempt: AttemptRef, offset: u64) {
    let store = scene.stage.running.control.store.clone();
    let chunks = store.output_read(attempt, offset, 2).await.unwrap();
    assert_eq!(chunks.iter().map(|chunk| chunk.payload_bytes as usize).collect::<Vec<_>>(), [PIECE; 2]);
    let mut joined = ChunkBuilder::new();
    for record in chunks.iter().flat_map(|chunk| chunk.decode().unwrap().records) {
        assert_eq!(joined.push(record.at_micros, record.stream, &record.bytes), record.bytes.len());
    }
    let joined = joined.finish(attempt, offset);
    scene.replace_chunks(&joined, PIECE as u64 * 2, chunks.iter().map(|chunk| chunk.lines).sum()).await;
}

#[tokio::test]
async fn output_that_was_joined_while_it_moved_is_moved_again() {
    let mut scene = Scene::set(Kind::Directory).await;
    // Five parts of about 4 MiB, of which one run moves four.
    let whole = noise(170 * PIECE);
    let job = scene.run(&pieces(&whole)).await;
    let attempt = scene.last.unwrap();
    let moving = scene.move_until_noted(scene.mover()).await;
    // In the second part, which was read already.
    join(&mut scene, attempt, 50 * PIECE as u64).await;
    let (mut mover, moved) = scene.let_note(moving).await;
    assert_eq!(moved, 1, "the first part, and none after the second one");
    assert!(scene.stage.client.output(job).await == whole);
    while mover.run_once().await.unwrap().again_after.is_some() {}
    assert_eq!(scene.count("output_objects").await, 1, "nothing before the job is looked at again");
    assert_eq!(scene.objects().len(), 1, "what was not noted is deleted");
    assert_eq!(scene.count("jobs WHERE output_moved").await, 0);

    while mover.run_once().await.unwrap().again_after.is_some() {}
    assert_eq!(scene.count("output_chunks").await, 0);
    assert_eq!(scene.count("output_objects").await, 5);
    assert!(scene.stage.client.output(job).await == whole);
}

/// Makes an object of one chunk, as if only that part had moved.
async fn move_only(scene: &mut Scene, attempt: AttemptRef, offset: u64) -> u64 {
    let store = scene.stage.running.control.store.clone();
    let chunks = store.output_part(attempt, offset, 1).await.unwrap();
    let directory = store.output_directory().await.unwrap();
    let object = NewObject::of(directory, &chunks).unwrap();
    scene.objects_of_master().put(&object.row.name, object.bytes.clone()).await.unwrap();
    assert!(store.output_moved(&object.row, object.chunks).await.unwrap());
    chunks.last().map(ChunkRow::end).unwrap()
}

/// Compares what is read from any place, by lines, from the end and by a search with the text.
async fn is_read_whole(client: &Client, job: i64, text: &str, which: &str) {
    assert!(client.output(job).await == text.as_bytes(), "{which}");
    for line in [1, 20_000, 25_000, 28_000, 30_000, 35_000, 45_000, 60_000, 70_000, 90_000] {
        let read = client.get(&format!("/jobs/{job}/output?lines={line}")).await;
        assert_eq!(read.text, format!("line {}\n", line - 1), "{which}");
    }
    let many = client.get(&format!("/jobs/{job}/output?lines=5-89995")).await;
    assert_eq!(many.text.lines().count(), 89_991, "{which}");
    for offset in [0, 250_000, 359_990, 470_000, 500_000, 800_000, text.len() - 3, text.len() + 5] {
        let read = client.get(&format!("/jobs/{job}/output?offset={offset}")).await;
        assert!(read.text == text.get(offset..).unwrap_or_default(), "{which}, from {offset}");
    }
    let last = client.get(&format!("/jobs/{job}/output?tail=2")).await;
    assert_eq!(last.text, "line 89998\nline 89999\n", "{which}");
    let most = client.get(&format!("/jobs/{job}/output?tail=80000")).await;
    assert!(most.text.lines().count() == 80_000 && text.ends_with(&most.text), "{which}");
    let found = client.get(&format!("/jobs/{job}/output?q=7$")).await;
    assert_eq!(found.text.lines().count(), 9_000, "{which}");
}

#[tokio::test]
async fn output_is_whole_whichever_of_its_parts_have_moved() {
    let mut scene = Scene::set(Kind::Directory).await;
    scene.run(&[(Stream::Stdout, b"moved\n".to_vec())]).await;
    scene.move_all().await;
    let text: String = (0..90_000).map(|n| format!("line {n}\n")).collect();
    let job = scene.run(&pieces(text.as_bytes())).await;
    let attempt = scene.last.unwrap();
    let chunks = scene.count("output_chunks").await as u64;
    assert!(chunks > 8, "{chunks}");
    // In the middle and at the end, with chunks before, between and after them.
    for chunk in [2, 3, 6, chunks - 1] {
        let end = move_only(&mut scene, attempt, chunk * PIECE as u64).await;
        assert_eq!(end, ((chunk + 1) * PIECE as u64).min(text.len() as u64));
        is_read_whole(&scene.stage.client, job, &text, &format!("chunk {chunk}")).await;
    }
    // What was moved out of order keeps nothing from being moved.
    scene.move_all().await;
    assert_eq!(scene.count("output_chunks").await, 0);
    assert!(scene.count("output_objects").await > 5);
    is_read_whole(&scene.stage.client, job, &text, "all").await;
}
