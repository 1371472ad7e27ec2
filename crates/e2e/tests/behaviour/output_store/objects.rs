//! What becomes of objects: a master that dies on the way, deletion, retention, backups.

use std::path::{Path, PathBuf};

use gaffer_e2e::client::Client;
use gaffer_e2e::eventually;
use gaffer_e2e::gaffer::{Dev, command, data_dir};
use gaffer_e2e::raw_worker::hello;
use gaffer_master::background::driver::Background as _;
use gaffer_master::background::retention::Expiry;
use gaffer_master::embedded_postgres::url_of_running;
use gaffer_master::store::StoreError;
use gaffer_protocol::output::Stream;
use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

use super::scene::{Kind, Place, Scene, age};

async fn delete(client: &Client, job: i64) {
    assert_eq!(client.delete(&format!("/jobs/{job}")).await.status, StatusCode::NO_CONTENT);
}

async fn is_deleted(scene: &mut Scene) {
    let mut database = PgConnection::connect(&scene.stage.database_url).await.unwrap();
    eventually("the job is deleted with all that it had", async || {
        let left: i64 =
            sqlx::query_scalar("SELECT count(*) FROM deletions").fetch_one(&mut database).await.unwrap();
        (left == 0).then_some(())
    })
    .await;
}

async fn a_deleted_job_takes_its_objects_along(kind: Kind) {
    let mut scene = Scene::set(kind).await;
    let gone = scene.run(&[(Stream::Stdout, b"gone\n".to_vec())]).await;
    let kept = scene.run(&[(Stream::Stdout, b"kept\n".to_vec())]).await;
    scene.move_all().await;
    assert_eq!(scene.objects().len(), 2);
    scene.take_store_away().await;
    delete(&scene.stage.client, gone).await;
    is_deleted(&mut scene).await;
    assert_eq!(scene.count("output_objects").await, 1, "the row goes first");
    assert_eq!(scene.count("unused_objects").await, 1, "and the object is not forgotten");
    let error = scene.unused().run_once().await.unwrap_err();
    assert!(matches!(error, StoreError::ObjectsUnavailable { .. }), "{error}");
    assert_eq!(scene.count("unused_objects").await, 1, "also not when it is asked for");

    scene.bring_store_back().await;
    assert_eq!(scene.objects().len(), 2);
    eventually("the object is deleted", async || {
        scene.clean().await;
        (scene.objects().len() == 1).then_some(())
    })
    .await;
    assert_eq!(scene.count("unused_objects").await, 0);
    assert_eq!(scene.stage.client.output(kept).await, b"kept\n");
    assert_eq!(scene.number("SELECT sum(objects)::bigint FROM output_object_eras").await, 1);
}

#[tokio::test]
async fn a_deleted_job_takes_its_objects_along_and_an_s3_that_is_away_is_asked_again() {
    Box::pin(a_deleted_job_takes_its_objects_along(Kind::S3)).await;
}

#[tokio::test]
async fn a_deleted_job_takes_its_objects_along_and_a_directory_that_is_not_mounted_is_asked_again() {
    Box::pin(a_deleted_job_takes_its_objects_along(Kind::Directory)).await;
}

#[tokio::test]
async fn a_job_that_is_deleted_while_its_output_moves_leaves_nothing() {
    let mut scene = Scene::set(Kind::Directory).await;
    let job = scene.run(&[(Stream::Stdout, b"gone\n".to_vec())]).await;
    let moving = scene.move_until_noted(scene.mover()).await;
    assert_eq!(scene.objects().len(), 1);
    assert_eq!(scene.stage.client.output(job).await, b"gone\n", "meanwhile it is where it was");
    delete(&scene.stage.client, job).await;
    scene.let_note(moving).await;
    is_deleted(&mut scene).await;
    scene.clean().await;
    assert_eq!((scene.count("output_objects").await, scene.objects().len()), (0, 0));
}

#[tokio::test]
async fn an_object_that_cannot_be_deleted_keeps_no_other_one() {
    let mut scene = Scene::set(Kind::Directory).await;
    let stuck = scene.run(&[(Stream::Stdout, b"stuck\n".to_vec())]).await;
    let gone = scene.run(&[(Stream::Stdout, b"gone\n".to_vec())]).await;
    let kept = scene.run(&[(Stream::Stdout, b"kept\n".to_vec())]).await;
    scene.move_all().await;
    let [first, second, third] = scene.objects().try_into().unwrap();
    // More than are deleted together, and before all others: a directory with a file is not deleted as an object.
    let block = |path: &Path| {
        std::fs::create_dir_all(path).unwrap();
        std::fs::write(path.join("file"), "").unwrap();
    };
    std::fs::remove_file(&first).unwrap();
    block(&first);
    let root = scene.place.dir.path().join("root");
    (0..300).for_each(|n| block(&root.join(format!("00000000-stuck/{n}"))));
    scene
        .sql("INSERT INTO unused_objects SELECT '00000000-stuck/' || n FROM generate_series(0, 299) n")
        .await;
    let unnamed = third.with_file_name(format!("1-1-0-{:032}", 1));
    std::fs::copy(&third, &unnamed).unwrap();
    age(&unnamed, 7);
    delete(&scene.stage.client, stuck).await;
    delete(&scene.stage.client, gone).await;
    is_deleted(&mut scene).await;

    let mut unused = scene.unused();
    // Each run goes on after those that the run before could not delete.
    for _ in 0..2 {
        let error = unused.run_once().await.unwrap_err();
        assert!(matches!(error, StoreError::ObjectsUnavailable { .. }), "{error}");
    }
    assert!(!second.exists(), "what can be deleted is deleted");
    assert!(!unnamed.exists(), "the objects were listed all the same");
    assert_eq!(scene.count("unused_objects").await, 301, "what could not be deleted is not forgotten");
    assert_eq!(scene.stage.client.output(kept).await, b"kept\n");

    std::fs::remove_dir_all(root.join("00000000-stuck")).unwrap();
    std::fs::remove_dir_all(&first).unwrap();
    scene.clean().await;
    assert_eq!(scene.count("unused_objects").await, 0);
}

#[tokio::test]
async fn eras_are_looked_through_from_their_beginning_in_whatever_order_they_are_dropped() {
    let mut scene = Scene::set(Kind::Directory).await;
    scene.objects_of_master().recognise(false).await.unwrap();
    // As dropped eras leave it, of more objects than one look has.
    let dropped = |era: i64, objects: i64| {
        format!(
            "INSERT INTO output_object_eras VALUES ({era}, {objects}, {objects});
             INSERT INTO output_objects
                 SELECT first_task({era}) + n, 1, 0, 1, 0, 0, 'none/{era}/' || n, 1, sha256('') FROM generate_series(1, {objects}) n"
        )
    };
    scene.sql(&dropped(8, 600)).await;
    let mut unused = scene.unused();
    assert_eq!(unused.run_once().await.unwrap().done, 500);
    scene.sql(&dropped(7, 3)).await;
    while unused.run_once().await.unwrap().again_after.is_some() {}
    assert_eq!(scene.count("output_objects").await, 0, "none is left out");
    assert_eq!(scene.number("SELECT sum(objects)::bigint FROM output_object_eras").await, 0);
}

async fn open_era(scene: &Scene) {
    let store = &scene.stage.running.control.store;
    let present = store.era_present().await.unwrap();
    store.era_open_next(present.number).await.unwrap();
}

#[tokio::test]
async fn an_era_that_is_dropped_takes_its_objects_along_but_for_those_of_kept_jobs() {
    let mut scene = Scene::set(Kind::Directory).await;
    let mut jobs = Vec::new();
    for n in 0..30 {
        jobs.push(scene.run(&[(Stream::Stdout, format!("job {n}\n").into_bytes())]).await);
    }
    let pinned = jobs[7];
    let pin = scene.stage.client.post(&format!("/jobs/{pinned}/pin"), &json!({})).await;
    assert_eq!(pin.status, StatusCode::OK);
    open_era(&scene).await;
    let later = scene.run(&[(Stream::Stdout, b"later\n".to_vec())]).await;
    scene.move_all().await;
    assert_eq!(scene.objects().len(), 31);
    let preview = scene.stage.client.get("/retention").await;
    assert_eq!(preview.body["eras"][1]["objects"], 30, "{}", preview.text);
    assert!(preview.body["eras"][1]["object_bytes"].as_u64().unwrap() > 30);

    scene
        .sql(&format!("UPDATE jobs SET finished_at = finished_at - interval '10 days' WHERE id <> {later}"))
        .await;
    let mut expiry = Expiry {
        store: scene.stage.running.control.store.clone(),
        retention: "5d".parse().unwrap(),
        deletion: Default::default(),
    };
    while expiry.run_once().await.unwrap().again_after.is_some() {}
    assert_eq!(scene.count("pg_class WHERE relname = 'output_chunks_era_0'").await, 0, "the era is dropped");
    scene.clean().await;
    assert_eq!(scene.objects().len(), 2);
    assert_eq!(scene.stage.client.output(pinned).await, b"job 7\n");
    assert_eq!(scene.stage.client.output(later).await, b"later\n");
    assert_eq!(scene.number("SELECT sum(objects)::bigint FROM output_object_eras").await, 2);
    assert_eq!(scene.clean().await, 0, "it is not looked through again");

    // What was kept can still be deleted.
    delete(&scene.stage.client, pinned).await;
    is_deleted(&mut scene).await;
    scene.clean().await;
    assert_eq!(scene.objects().len(), 1);
}

#[tokio::test]
async fn only_old_objects_of_this_installation_that_no_row_names_are_deleted() {
    let mut scene = Scene::set(Kind::S3).await;
    let job = scene.run(&[(Stream::Stdout, b"one\n".to_vec())]).await;
    scene.move_all().await;
    let used = scene.objects().remove(0);
    let copy = |name: &str| {
        let path = used.with_file_name(name);
        std::fs::copy(&used, &path).unwrap();
        path
    };
    let named = used.file_name().unwrap().to_string_lossy().into_owned();
    let (part, _) = named.rsplit_once('-').unwrap();
    let old = copy(&format!("{part}-00000000000000000000000000000001"));
    let new = copy(&format!("{part}-00000000000000000000000000000002"));
    let foreign = copy("notes.txt");
    let of_another =
        used.parent().unwrap().parent().unwrap().with_file_name("00000000-0000-0000-0000-000000000001");
    std::fs::create_dir_all(of_another.join("0")).unwrap();
    let of_another = of_another.join("0").join(old.file_name().unwrap());
    std::fs::copy(&used, &of_another).unwrap();
    for object in [&used, &old, &foreign, &of_another] {
        age(object, 7);
    }
    age(&new, 5);
    assert_eq!(scene.clean().await, 1);
    assert!(!old.exists());
    for object in [&used, &new, &foreign, &of_another] {
        assert!(object.exists(), "{}", object.display());
    }
    assert_eq!(scene.stage.client.output(job).await, b"one\n");
}

/// The objects below a directory.
fn objects_in(place: &Place) -> Vec<PathBuf> {
    place.objects()
}

async fn said(mut command: tokio::process::Command) -> (Option<i32>, String, String) {
    let output = command.output().await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

async fn database(dir: &Path) -> PgConnection {
    PgConnection::connect(&url_of_running(dir).unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_master_that_is_killed_between_object_and_note_loses_nothing_and_the_object_is_deleted_later() {
    let (dir, place) = (data_dir(), Place::new(Kind::Directory).await);
    let dev = Dev::start(dir.path()).await;
    let job = dev.client.submit(json!({"script": "seq 1 50000; echo error >&2"})).await;
    dev.client.finished(job).await;
    let whole = dev.client.output(job).await;
    // To note an object takes long.
    let wait = "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                    PERFORM pg_sleep(3600); RETURN NEW; END $$;
                CREATE TRIGGER wait BEFORE INSERT ON output_objects FOR EACH ROW EXECUTE FUNCTION wait()";
    sqlx::raw_sql(wait).execute(&mut database(dir.path()).await).await.unwrap();
    dev.interrupt().await;

    let url = place.address().to_string();
    let settings = [("GAFFER_OUTPUT_STORE", url.as_str()), ("GAFFER_OUTPUT_STORE_AFTER", "0s")];
    let dev = Dev::start_with(dir.path(), &settings).await;
    eventually("an object is there", async || (!objects_in(&place).is_empty()).then_some(())).await;
    assert!(dev.client.output(job).await == whole, "it is read from the database meanwhile");
    dev.kill().await;
    let left = objects_in(&place);

    let dev = Dev::start(dir.path()).await;
    sqlx::raw_sql("DROP TRIGGER wait ON output_objects")
        .execute(&mut database(dir.path()).await)
        .await
        .unwrap();
    assert!(dev.client.output(job).await == whole, "nothing was lost");
    dev.interrupt().await;

    left.iter().for_each(|object| age(object, 24));
    let dev = Dev::start_with(dir.path(), &settings).await;
    eventually("the output has moved", async || {
        let moved =
            "SELECT count(*) FROM output_chunks WHERE task_id = (SELECT id FROM tasks WHERE job_id = $1)";
        let chunks: i64 =
            sqlx::query_scalar(moved).bind(job).fetch_one(&mut database(dir.path()).await).await.unwrap();
        (chunks == 0).then_some(())
    })
    .await;
    eventually("what the killed master left is deleted", async || {
        left.iter().all(|object| !object.exists()).then_some(())
    })
    .await;
    assert!(dev.client.output(job).await == whole);
    dev.interrupt().await;
}

#[tokio::test]
async fn commands_know_of_output_in_object_storage() {
    let (dir, elsewhere, place) = (data_dir(), data_dir(), Place::new(Kind::Directory).await);
    let url = place.address().to_string();
    let settings = [("GAFFER_OUTPUT_STORE", url.as_str()), ("GAFFER_OUTPUT_STORE_AFTER", "0s")];
    let dev = Dev::start_with(dir.path(), &settings).await;
    let job = dev.client.submit(json!({"script": "seq 1 5000; echo an error >&2"})).await;
    dev.client.finished(job).await;
    let whole = dev.client.output(job).await;
    // The loop has just run: the next master begins with the next run.
    dev.interrupt().await;
    let dev = Dev::start_with(dir.path(), &settings).await;
    let system = async || dev.client.get("/system").await.body["loops"].as_array().unwrap().clone();
    eventually("the output has moved", async || {
        let chunks =
            "SELECT count(*) FROM output_chunks WHERE task_id = (SELECT id FROM tasks WHERE job_id = $1)";
        let mut database = database(dir.path()).await;
        (sqlx::query_scalar::<_, i64>(chunks).bind(job).fetch_one(&mut database).await.unwrap() == 0)
            .then_some(())
    })
    .await;
    for name in ["output_mover", "unused_objects"] {
        assert!(system().await.iter().any(|one| one["name"] == name), "{name}");
    }
    let number = job.to_string();
    let (code, out, _) = said(dev.cli(&["logs", &number])).await;
    assert!(code == Some(0) && out.len() + "an error\n".len() >= whole.len());
    let (code, out, _) = said(dev.cli(&["logs", &number, "--grep", "^4999$"])).await;
    assert_eq!((code, out.trim()), (Some(0), "4999"));
    let (code, out, err) = said(dev.cli(&["logs", &number, "--verify"])).await;
    assert_eq!(code, Some(0), "{out} {err}");
    let (_, out, _) = said(dev.cli(&["doctor"])).await;
    assert!(out.contains("✓ object storage: ") && out.contains(&url), "{out}");
    sqlx::raw_sql("ALTER TABLE output_object_eras RENAME TO away")
        .execute(&mut database(dir.path()).await)
        .await
        .unwrap();
    let (code, out, _) = said(dev.cli(&["doctor"])).await;
    assert!(code == Some(1) && out.contains("✗ object storage: the master could not check it"), "{out}");
    sqlx::raw_sql("ALTER TABLE away RENAME TO output_object_eras")
        .execute(&mut database(dir.path()).await)
        .await
        .unwrap();
    let (code, out, _) = said(dev.cli(&["retention", "preview"])).await;
    assert!(code == Some(0) && out.contains("IN OBJECTS"), "{out}");

    let file = elsewhere.path().join("gaffer.backup");
    let mut backup = command(&["backup", file.to_str().unwrap()]);
    backup.env("GAFFER_DATA_DIR", dir.path());
    let (code, _, err) = said(backup).await;
    assert!(code == Some(0) && err.contains("in object storage and not in this file"), "{err}");
    let key = dev.client.key().to_owned();
    dev.interrupt().await;

    let restored_dir = elsewhere.path().join("restored");
    std::fs::create_dir(&restored_dir).unwrap();
    std::fs::set_permissions(&restored_dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut restore = command(&["restore", file.to_str().unwrap(), "-o", "json"]);
    restore.env("GAFFER_DATA_DIR", &restored_dir);
    let (code, out, err) = said(restore).await;
    assert_eq!(code, Some(0), "{err}");
    let restored: Value = serde_json::from_str(&out).unwrap();
    assert!(restored["objects"].as_i64().unwrap() >= 1, "{restored}");
    // It never takes objects of the original for its own unused ones.
    let before = objects_in(&place);
    before.iter().for_each(|object| age(object, 24));
    let dev = Dev::start_from_nothing(&restored_dir, &settings).await;
    let client = dev.client.with_key(&key);
    assert!(client.output(job).await == whole, "the references are restored");
    eventually("it has looked for unused objects", async || {
        let loops = client.get("/system").await.body["loops"].as_array()?.clone();
        let unused = loops.into_iter().find(|one| one["name"] == "unused_objects")?;
        (unused["runs"].as_u64()? >= 1).then_some(())
    })
    .await;
    assert!(before.iter().all(|object| object.exists()));

    std::fs::rename(place.dir.path().join("root"), place.dir.path().join("away")).unwrap();
    let (code, out, _) = said(dev.cli(&["doctor"])).await;
    assert!(code == Some(1) && out.contains("✗ object storage: "), "{out}");
    dev.interrupt().await;
}

#[tokio::test]
async fn a_restored_installation_puts_its_objects_elsewhere() {
    let mut scene = Scene::set(Kind::Directory).await;
    scene.run(&[(Stream::Stdout, b"one\n".to_vec())]).await;
    scene.move_all().await;
    let before = scene.text("SELECT output_directory::text FROM installation").await;
    let Scene { stage, place, .. } = scene;
    let url = stage.strike().await;
    gaffer_master::backup::prepare(&url, chrono::Utc::now()).await.unwrap();
    let mut scene = Box::pin(Scene::on(url, place, true, hello("another"))).await;
    let after = scene.text("SELECT output_directory::text FROM installation").await;
    assert_ne!(before, after);
}
