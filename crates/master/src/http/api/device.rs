//! `/device`: logins of commands, in the shape of RFC 8628.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use gaffer_domain::device_codes::{INTERVAL, PollAnswer, VALID, shown_code};
use gaffer_protocol::rest::{DeviceAuthorization, DeviceKey, DeviceRequest, DeviceTokenRequest};

use super::super::Site;
use super::super::description::{JsonBody, Operation};
use super::super::error::Error;
use super::super::peer::Peer;
use crate::device_logins::Polled;
use crate::operations::{Context, device};

pub const AUTHORIZE: Operation = Operation {
    description: "Begins a login: its user opens `verification_uri`, signs in, compares `user_code` and allows it. Meanwhile ask \
        `/device/token` every `interval` seconds. No key is needed.",
    ..Operation::public("authorize_device", "Begin a login of a command")
};

/// `POST /device/authorization`
pub async fn authorize(
    State(context): State<Arc<Context>>,
    State(site): State<Arc<Site>>,
    peer: Peer,
    body: JsonBody<DeviceRequest>,
) -> Result<Json<DeviceAuthorization>, Error> {
    let DeviceRequest { client } = body.read()?;
    let begun = device::begin(&context, &client, peer.address())?;
    let (page, user_code) = (format!("{}/device", site.public_url), shown_code(&begun.user_code));
    Ok(Json(DeviceAuthorization {
        device_code: begun.device_code,
        verification_uri_complete: format!("{page}?code={user_code}"),
        verification_uri: page,
        user_code,
        expires_in: VALID.as_secs(),
        interval: INTERVAL.as_secs(),
    }))
}

pub const TOKEN: Operation = Operation {
    description: "Gives the key once. Until then, the code of the problem says what to do: `authorization_pending` asks again after \
        the interval, `slow_down` after five seconds more than before, `access_denied` and `expired_token` are final.",
    errors: &[(400, "There is no key, or none yet: see the code of the problem.")],
    ..Operation::public("get_device_key", "Get the key of a login of a command")
};

/// `POST /device/token`
pub async fn token(
    State(context): State<Arc<Context>>,
    body: JsonBody<DeviceTokenRequest>,
) -> Result<Json<DeviceKey>, Error> {
    let DeviceTokenRequest { device_code } = body.read()?;
    let (code, detail) = match device::poll(&context, &device_code) {
        Polled::Key(key) => {
            return Ok(Json(DeviceKey {
                key: key.secret.to_string(),
                user: key.user,
                project: key.project,
                expires_at: key.expires_at,
            }));
        }
        Polled::Answer(PollAnswer::Pending) => ("authorization_pending", "the user has not decided yet"),
        Polled::Answer(PollAnswer::SlowDown(_)) => {
            ("slow_down", "asked too soon: wait five seconds more than before")
        }
        Polled::Answer(PollAnswer::Denied) => ("access_denied", "the user refused the login"),
        Polled::Answer(PollAnswer::Expired | PollAnswer::Granted) => {
            ("expired_token", "the login has expired, or its key was handed out already: begin another one")
        }
    };
    Err(Error::Invalid { code, detail: detail.to_owned(), errors: Vec::new() })
}
