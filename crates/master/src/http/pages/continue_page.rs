//! A page that leads on to another one.

use askama::Template;

use super::frame::Frame;

/// A page that continues elsewhere by itself. A redirect would not do: after a form the browser follows none to another site, and on
/// the way back from one it would not send the new cookie.
#[derive(Template)]
#[template(path = "continue.html")]
pub struct ContinuePage {
    pub frame: Frame,
    pub heading: &'static str,
    pub to: String,
}
