//! Login without a key: a user allows it in the dashboard.

use std::process::{Command, Stdio};
use std::time::Duration;

use gaffer_protocol::rest::{DeviceAuthorization, DeviceKey, DeviceRequest, DeviceTokenRequest};
use gaffer_protocol::server_url::ServerUrl;
use nix::unistd::gethostname;
use tokio::time::{Instant, sleep};

use crate::access::{Access, ENVIRONMENT, Key};
use crate::client::Client;
use crate::config;
use crate::failure::Failure;
use crate::out::Out;
use crate::style;

/// By how much longer to wait when the server says that this asks too often.
const SLOWER_BY: Duration = Duration::from_secs(5);
/// The longest pause between two questions, whatever the server says.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Asks for a key, shows the code, and waits until the user has decided.
///
/// # Errors
/// When the server is an earlier one, the user refuses, or the code expires.
pub async fn key(url: &ServerUrl, opens_browser: bool, out: &Out) -> Result<DeviceKey, Failure> {
    // Nothing is asked here that needs a key.
    let access = Access { url: url.clone(), key: Key::new("none"), source: ENVIRONMENT.to_owned() };
    let client = Client::new(&access)?;
    let machine = gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let begun = client.post(&["device", "authorization"], &DeviceRequest { client: machine }).await;
    let begun: DeviceAuthorization = match begun.and_then(|answer| answer.read()) {
        Err(failure) if failure.is_not_found() => {
            let reason =
                "this server is too old for a login without a key; `gaffer login URL < key.txt` takes one";
            return Err(Failure::Usage(reason.to_owned()));
        }
        begun => begun?,
    };
    let link = style::visible(&begun.verification_uri_complete);
    out.note(&format!("Open {link}\nand compare the code: {}", style::visible(&begun.user_code)));
    if opens_browser {
        open(&begun.verification_uri_complete);
    }
    let mut pause = Duration::from_secs(begun.interval.max(1));
    let until = Instant::now() + Duration::from_secs(begun.expires_in);
    let question = DeviceTokenRequest { device_code: begun.device_code };
    while Instant::now() < until {
        sleep(pause.min(LONGEST_PAUSE)).await;
        match client.post(&["device", "token"], &question).await {
            Ok(answer) => return answer.read(),
            Err(Failure::Problem(problem)) if problem.code == "authorization_pending" => {}
            Err(Failure::Problem(problem)) if problem.code == "slow_down" => pause += SLOWER_BY,
            // The network may be back for the next question.
            Err(Failure::Unreachable(_)) => {}
            Err(failure) => return Err(failure),
        }
    }
    Err(Failure::Local("the code has expired; run `gaffer login` again".to_owned()))
}

/// Opens a page in the user's browser, where there is one. Failing that, the link is there to be copied.
fn open(link: &str) {
    let has_display = ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| config::variable(name).is_some());
    let program = match (cfg!(target_os = "macos"), has_display) {
        (true, _) => "open",
        (false, true) => "xdg-open",
        (false, false) => return,
    };
    if !link.starts_with("http://") && !link.starts_with("https://") {
        return;
    }
    let opener = Command::new(program)
        .arg(link)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    drop(opener);
}
