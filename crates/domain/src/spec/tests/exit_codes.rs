//! What exit codes mean for a restart.

use super::*;

#[test]
fn exit_codes_that_are_tried_again_imply_a_policy_that_repeats() {
    let restart = restart_of(json!({"restart": {"on_exit": [75, "76"], "not_on_exit": [2], "success": [3]}}));
    assert_eq!((restart.policy, restart.limit), (RestartPolicy::OnFailure, 3));
    assert_eq!(restart.on_exit.iter().collect::<Vec<_>>(), [75, 76]);
    assert_eq!(restart.not_on_exit.iter().collect::<Vec<_>>(), [2]);
    assert_eq!(restart.success.iter().collect::<Vec<_>>(), [3]);
    assert!(
        restart.on_exit.contains(75) && !restart.on_exit.contains(75 + 256) && !restart.on_exit.contains(-1)
    );

    let kept = restart_of(json!({"restart": {"policy": "always", "not_on_exit": [2]}}));
    assert_eq!(kept.policy, RestartPolicy::Always);
    let kept = restart_of(json!({"type": "service", "restart": {"not_on_exit": [2]}}));
    assert_eq!(kept.policy, RestartPolicy::Always);
    let once = restart_of(json!({"restart": {"success": [0, 3]}}));
    assert_eq!((once.policy, once.limit), (RestartPolicy::Never, 0));
}

#[test]
fn an_exit_code_has_one_meaning() {
    let wrong = json!({"restart": {"on_exit": [0, 3, 75, 75], "not_on_exit": [75, 3, 0], "success": [3, 3]}});
    assert_eq!(
        mistakes(with(wrong)),
        [
            "/restart/success/1: exit code 3 is named twice",
            "/restart/on_exit/0: exit code 0 is a success",
            "/restart/on_exit/1: exit code 3 is in `success` too",
            "/restart/on_exit/3: exit code 75 is named twice",
            "/restart/not_on_exit/0: exit code 75 is in `on_exit` too",
            "/restart/not_on_exit/1: exit code 3 is in `success` too",
            "/restart/not_on_exit/2: exit code 0 is a success",
        ]
    );
}

#[test]
fn exit_codes_are_lists_of_what_a_process_can_exit_with() {
    assert_eq!(
        mistakes(with(json!({"restart": {"on_exit": [256, -1, "many"], "not_on_exit": [], "success": 3}}))),
        [
            "/restart/success: expected a list of exit codes such as [3], found 3",
            "/restart/on_exit/0: expected a whole number from 0 to 255, found 256",
            "/restart/on_exit/1: expected a whole number from 0 to 255, found -1",
            "/restart/on_exit/2: expected a whole number from 0 to 255, found a string",
            "/restart/not_on_exit: the list has no exit code: name one, or leave the field out",
        ]
    );
}

#[test]
fn exit_codes_that_are_repeated_contradict_a_policy_that_never_does() {
    assert_eq!(
        mistake(with(json!({"restart": {"policy": "never", "on_exit": [75]}}))),
        "/restart/on_exit: `on_exit` has no effect with `policy: never`: write `policy: on-failure`, or leave it out"
    );
    assert!(mistake(with(json!({"stdin": true, "restart": {"on_exit": [75]}}))).contains("is not repeated"));
}
