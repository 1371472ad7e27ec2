//! What a task may say about its container.

use super::*;

/// A task in a container that has these fields too.
fn inside(fields: Value) -> Value {
    let mut job = with(fields);
    job.as_object_mut().unwrap().entry("image").or_insert(json!("busybox:1.36"));
    job
}

fn container(fields: Value) -> Container {
    read(inside(fields)).tasks[0].container.clone().unwrap()
}

#[test]
fn an_image_alone_makes_a_container_with_every_default() {
    let spec = read(json!({"image": "registry.lab:5000/tools/Train-Set:v3".to_lowercase()}));
    assert_eq!(spec.name, "train-set", "after its image");
    let task = serde_json::to_value(&spec.tasks[0]).unwrap();
    assert_eq!(task["driver"], "docker");
    assert_eq!(task["command"], json!([]), "the image's own command");
    assert_eq!(
        (&task["pull"], &task["network"], &task["pids_limit"]),
        (&json!("missing"), &json!("bridge"), &json!(4096))
    );
    for absent in ["entrypoint", "user", "workdir", "ports", "volumes", "tmpfs", "capabilities", "gpus"] {
        assert_eq!(task.get(absent), None, "{absent}");
    }
    assert_eq!(read(json!({"driver": "docker", "image": "a"})).tasks[0].driver, DriverKind::Docker);
}

#[test]
fn a_full_container_is_read_as_it_is_written() {
    let fields = json!({
        "pull": "always", "entrypoint": ["/entry", "-x"], "user": 1000, "workdir": "/work", "pids_limit": 100,
        "ports": ["8080:80", "0:53/udp", 9000], "volumes": ["/data/set:/data:ro", "/out:/out"],
        "tmpfs": {"/scratch": "64MiB"}, "network": "bridge", "capabilities": ["cap_net_admin", "CHOWN"], "gpus": 2,
    });
    let container = container(fields);
    assert_eq!(container.user.as_deref(), Some("1000"));
    let ports: Vec<_> = container.ports.iter().map(ToString::to_string).collect();
    assert_eq!(ports, ["8080:80", "0:53/udp", "0:9000"]);
    let volumes: Vec<_> = container.volumes.iter().map(ToString::to_string).collect();
    assert_eq!(volumes, ["/data/set:/data:ro", "/out:/out"]);
    assert_eq!(container.tmpfs["/scratch"], Bytes(64 << 20));
    assert_eq!(container.capabilities, ["NET_ADMIN", "CHOWN"]);
    assert_eq!((container.gpus, container.pids_limit), (Some(Gpus::Count(2)), 100));
    assert_eq!(self::container(json!({"gpus": "all"})).gpus, Some(Gpus::All));
}

#[test]
fn only_a_container_has_the_fields_of_one() {
    assert_eq!(mistake(json!({"driver": "docker", "command": ["true"]})), "a container needs an `image`");
    assert_eq!(
        mistake(with(json!({"ports": ["80:80"]}))),
        "/ports: a port of a task on the host needs a name, as in `http=80`"
    );
    assert_eq!(
        mistake(with(json!({"driver": "host", "image": "busybox"}))),
        "/image: `image` conflicts with the `driver`: write `driver: docker`, or leave the image out"
    );
    assert_eq!(mistakes(with(json!({"driver": "dokcer", "image": "busybox", "ports": []}))).len(), 1);
    assert_eq!(read(json!({"driver": null, "image": "a"})).tasks[0].driver, DriverKind::Docker);
    let misspelt = mistakes(with(json!({"drivr": "docker"}))).join("; ");
    assert!(misspelt.contains("did you mean `driver`?"), "{misspelt}");
    assert_eq!(mistakes(json!({"image": "a b"})).len(), 1, "no command is missed beside a wrong image");
    assert_eq!(
        mistake(json!({"command": []})),
        "/command: the command is empty: it needs at least a program"
    );
    assert!(
        mistake(json!({"image": "a", "script": "x", "entrypoint": ["y"]}))
            .starts_with("/entrypoint: a script")
    );
    assert!(mistake(inside(json!({"entrypoint": "/bin/entry -x"}))).contains("write a list such as"));
    assert!(mistake(inside(json!({"entrypoint": ["x".repeat(2 << 20)]}))).contains("the entry point has"));
}

#[test]
fn images_are_named_as_registries_name_them() {
    for image in [
        "a",
        "busybox:1.36",
        "library/busybox",
        "Lab.Example:5000/tools/train:V3",
        "localhost/x",
        "busybox@sha256:0123456789abcdef",
        "lab/x:tag_1.2-3",
    ] {
        assert_eq!(container(json!({"image": image})).image, image);
    }
    for image in ["", "-v", "a b", "a\nb", "/a", "a/", "a//b", "a:", "ä", "$(x)"] {
        assert!(
            mistake(inside(json!({"image": image}))).contains("cannot be the name of an image"),
            "{image}"
        );
    }
    assert!(mistake(inside(json!({"image": "Busybox"}))).contains("lower case"));
    assert!(mistake(inside(json!({"image": "lab.example/Tools/x"}))).contains("lower case"));
}

#[test]
fn ports_are_distinct_and_need_a_network() {
    let complaint = |fields: Value| mistake(inside(fields));
    assert!(complaint(json!({"ports": ["80"], "network": "none"})).contains("without a network"));
    assert!(complaint(json!({"ports": ["80"], "network": "host"})).contains("those of the worker"));
    assert_eq!(
        complaint(json!({"ports": ["8080:80", "8080:81"]})),
        "/ports/1: 8080:81 and 8080:80 want the same port of the worker: write another, or 0:81 for any that is free"
    );
    assert_eq!(
        complaint(json!({"ports": ["1:80", "2:80"]})),
        "/ports/1: 2:80 and 1:80 are the same port of the container: write it once"
    );
    assert_eq!(container(json!({"ports": ["80:80", "80:80/udp", "0:1", "0:2"]})).ports.len(), 4);
    for port in [
        "", "80:", ":80", "a=", "a=0", "1a=80", "a b", "a=1:0", "0", "8080:0", "65536:1", "1:2:3", "+1:1",
        "80/sctp", "-1:5",
    ] {
        assert!(complaint(json!({"ports": [port]})).contains("is not a port: write"), "{port}");
    }
    assert!(complaint(json!({"ports": [484_880]})).contains("put it in quotes"));
}

#[test]
fn a_port_has_a_name_by_which_it_is_found_and_numbers_where_they_matter() {
    let shown = |ports: &[Port]| ports.iter().map(ToString::to_string).collect::<Vec<_>>();
    let fields = json!({"ports": ["http", "admin=9000", "rpc=8080:80", "dns=53/udp", "http=80/udp"]});
    assert!(mistake(inside(fields)).contains("have the same variable GAFFER_PORT_HTTP"));
    let container = container(json!({"ports": ["http", "admin=9000", "rpc=0:80", "dns=53/udp", "8080:81"]}));
    assert_eq!(shown(&container.ports), ["http", "admin=9000", "rpc=80", "dns=53/udp", "8080:81"]);
    assert_eq!(container.ports[1].fixed(false), None);
    assert_eq!(container.ports[4].fixed(false), Some(8080));

    let on_host = |ports: Value| with(json!({ "ports": ports }));
    let task = &read(on_host(json!(["http", "admin=9000"]))).tasks[0];
    assert_eq!(
        (shown(task.ports()), task.shares_network()),
        (vec!["http".to_owned(), "admin=9000".to_owned()], true)
    );
    assert_eq!(task.ports()[1].fixed(true), Some(9000));
    assert!(mistake(on_host(json!(["http=80:80"]))).contains("has two numbers"));
    assert!(mistake(on_host(json!(["a=80", "b=80"]))).contains("are the same port of the worker"));
    assert!(mistake(on_host(json!(["a-b", "a_b"]))).contains("GAFFER_PORT_A_B"));
    let shared = json!({"network": "host", "ports": ["http=80"]});
    assert_eq!(shown(&self::container(shared).ports), ["http=80"]);
}

#[test]
fn volumes_and_tmpfs_are_absolute_plain_paths_each_once() {
    let complaint = |fields: Value| mistake(inside(fields));
    for volume in
        ["/a", "a:/b", "/a:b", "/a:/", "/a/../b:/c", "/a:/b:rx", "/a//b:/c", "/a:/b:ro:x", "/a,b:/c"]
    {
        assert!(complaint(json!({"volumes": [volume]})).contains("is not a volume: write"), "{volume}");
    }
    assert_eq!(
        complaint(json!({"volumes": ["/a:/x", "/b:/x:ro"]})),
        "/volumes/1: /b:/x:ro and /a:/x have the same target: write another path for one of them"
    );
    assert_eq!(
        complaint(json!({"volumes": ["/a:/x"], "tmpfs": {"/x": "1MiB"}})),
        "/tmpfs/~1x: `/x` is the target of a volume already: write another path"
    );
    assert!(complaint(json!({"tmpfs": {"/": "1MiB"}})).contains("all of the container"));
    assert!(complaint(json!({"tmpfs": {"/x": "1"}})).contains("expected a size"));
}

#[test]
fn a_workdir_is_an_absolute_path_on_the_host_and_in_a_container() {
    let on_host = |path: &str| json!({"command": ["true"], "workdir": path});
    for spec in [on_host("work"), on_host("~/work"), inside(json!({"workdir": "work"}))] {
        assert!(mistake(spec).starts_with("/workdir: `"), "the place is told");
    }
    assert!(mistake(on_host("work")).contains("`work` is not an absolute path"));
    assert!(mistake(on_host("~/work")).contains("`~` is for shells"));
    let too_long = format!("/{}", "a".repeat(4095));
    assert!(mistake(on_host(&too_long)).contains("more than the 4095 bytes"));
    let play = json!({"driver": "scripted", "script": "exit 0", "workdir": "/work"});
    assert!(mistake(play).contains("is not allowed for a scripted task"));

    // Names of directories may have more in them than a volume's.
    let path = "/srv/a: b,c/../x/";
    let task = JobSpec::read(&on_host(path)).unwrap().tasks.remove(0);
    assert_eq!((task.workdir.as_deref(), task.container), (Some(path), None));
    let task = JobSpec::read(&inside(json!({"workdir": path}))).unwrap().tasks.remove(0);
    assert_eq!((task.workdir, task.container.unwrap().workdir.as_deref()), (None, Some(path)));
}

#[test]
fn only_a_process_on_the_host_is_nice() {
    assert_eq!(read(with(json!({"nice": 19}))).tasks[0].nice, 19);
    assert_eq!(mistake(with(json!({"nice": 20}))), "/nice: expected a whole number from 0 to 19, found 20");
    assert_eq!(
        mistake(inside(json!({"nice": 5}))),
        "/nice: `nice` is for tasks on the host only: leave it out, or leave out the `image`"
    );
    let play = json!({"driver": "scripted", "script": "exit 0", "nice": 5});
    assert!(mistake(play).contains("is not allowed for a scripted task"));
}

#[test]
fn a_task_with_standard_input_is_not_repeated() {
    let task = |fields: Value| {
        let mut job = json!({"command": ["cat"], "stdin": true});
        job.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        JobSpec::read(&job)
    };
    let fine = task(json!({})).unwrap().tasks.remove(0);
    assert_eq!((fine.stdin, fine.restart.limit, fine.restart.on_lost), (true, 0, OnLost::Fail));
    task(json!({"type": "service", "restart": "never"})).unwrap();
    task(json!({"image": "busybox"})).unwrap();
    for (fields, pointer) in [
        (json!({"restart": "on-failure"}), "/restart"),
        (json!({"restart": {"on_lost": "restart"}}), "/restart"),
        (json!({"type": "service"}), ""),
    ] {
        let mistakes = task(fields).unwrap_err();
        assert_eq!((mistakes.len(), mistakes[0].pointer.as_str()), (1, pointer), "{mistakes:?}");
        assert!(mistakes[0].detail.contains("write `restart: never`"), "{mistakes:?}");
    }
}

#[test]
fn capabilities_are_named_one_by_one() {
    let complaint = |name: &str| mistake(inside(json!({"capabilities": [name]})));
    assert!(complaint("ALL").contains("one by one"));
    assert!(complaint("NET_ADMN").ends_with("(did you mean `NET_ADMIN`?)"), "{}", complaint("NET_ADMN"));
    assert_eq!(
        mistake(inside(json!({"capabilities": ["KILL", "cap_kill"]}))),
        "/capabilities/1: KILL is named twice"
    );
}

#[test]
fn users_limits_and_gpus_are_checked() {
    for user in ["", "a b", "a:b:c", ":x", "a:", "ro\u{0}ot"] {
        assert!(mistake(inside(json!({"user": user}))).contains("cannot be a user"), "{user}");
    }
    assert_eq!(container(json!({"user": "www-data:33"})).user.as_deref(), Some("www-data:33"));
    for (field, value) in
        [("pids_limit", json!(0)), ("gpus", json!(0)), ("gpus", json!("some")), ("pull", json!("x"))]
    {
        assert!(
            mistake(inside(json!({field: value}))).starts_with(&format!("/{field}: expected")),
            "{field}"
        );
    }
}
