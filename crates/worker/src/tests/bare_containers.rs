//! The bare calls that container tasks are compared with: they leave nothing, and what a killed process left can be removed.

use bollard::query_parameters::ListContainersOptions;

use super::docker::labelled;
use super::docker_daemon::{self, IMAGE, client};
use super::master::eventually;
use crate::driver::bare_container::{BareContainer, OWNER_LABEL, remove_where};

#[tokio::test]
async fn the_bare_calls_run_a_container_and_leave_nothing() {
    let nowhere = BareContainer::new(Some("unix:///nowhere/docker.sock"), IMAGE, &["true"], "a test").await;
    let why = format!("{:#}", nowhere.unwrap_err());
    assert!(why.starts_with("no Docker daemon at /nowhere/docker.sock"), "{why}");
    let Some(address) = docker_daemon::shared("the_bare_calls_run_a_container_and_leave_nothing") else {
        return;
    };
    let bare =
        async |image, command: &[&str]| BareContainer::new(Some(address), image, command, "a test").await;
    let greeting = bare(IMAGE, &["echo", "by bare calls"]).await.unwrap();
    assert_eq!(greeting.run().await.unwrap(), b"by bare calls\n");
    let failing = bare(IMAGE, &["sh", "-c", "echo by bare calls; false"]).await.unwrap();
    failing.run().await.unwrap_err();
    let why = bare("localhost/no/such:image", &["true"]).await.unwrap_err().to_string();
    assert!(why.ends_with("does not have the image localhost/no/such:image"), "{why}");
    let docker = client(address).negotiate_version().await.unwrap();
    let options = ListContainersOptions { all: true, ..ListContainersOptions::default() };
    let containers = docker.list_containers(Some(options)).await.unwrap();
    let left: Vec<String> = containers.into_iter().filter_map(|container| container.command).collect();
    assert!(!left.iter().any(|command| command.contains("by bare calls")), "{left:?}");
}

#[tokio::test]
async fn a_bare_container_that_was_left_is_removed_by_its_owner() {
    let nowhere = remove_where(Some("unix:///nowhere/docker.sock"), |_| true).await;
    assert_eq!(nowhere.unwrap(), None);
    let Some(address) = docker_daemon::shared("a_bare_container_that_was_left_is_removed_by_its_owner")
    else {
        return;
    };
    let owned = async |owner: &str| labelled(address, format!("{OWNER_LABEL}={owner}")).await.len();
    let run = async |owner: &str| {
        let bare = BareContainer::new(Some(address), IMAGE, &["sleep", "600"], owner).await.unwrap();
        let run = tokio::spawn(async move { bare.run().await });
        eventually("it has its container", async || owned(owner).await > 0).await;
        // Nobody waits for it any more, as after a kill.
        run.abort();
    };
    run("one test").await;
    run("another test").await;
    let remove =
        async |owner: &str| remove_where(Some(address), |found| found == owner).await.unwrap().unwrap();
    assert_eq!(remove("one test").await, 1);
    assert_eq!((owned("one test").await, owned("another test").await), (0, 1));
    assert_eq!((remove("another test").await, remove("another test").await), (1, 0));
}
