//! The theme (light, dark, auto), stored in a cookie so that the first byte has the right colours.

use std::sync::Arc;

use axum::Form;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum_extra::extract::CookieJar;
use serde::Deserialize;

use super::super::Site;
use super::format::local_path;

const COOKIE: &str = "gaffer_theme";
const A_YEAR_SECS: u32 = 365 * 24 * 3_600;

/// What a user prefers to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Theme {
    /// As the browser prefers.
    #[default]
    Auto,
    /// Dark on light.
    Light,
    /// Light on dark.
    Dark,
}

impl Theme {
    const ALL: [Theme; 3] = [Theme::Auto, Theme::Light, Theme::Dark];

    /// The theme in the request's cookie.
    pub fn of(headers: &HeaderMap) -> Theme {
        let jar = CookieJar::from_headers(headers);
        jar.get(COOKIE).and_then(|cookie| Theme::named(cookie.value())).unwrap_or_default()
    }

    fn named(name: &str) -> Option<Theme> {
        Theme::ALL.into_iter().find(|theme| theme.name() == name)
    }

    /// Its name in form and cookie.
    pub fn name(self) -> &'static str {
        match self {
            Theme::Auto => "auto",
            Theme::Light => "light",
            Theme::Dark => "dark",
        }
    }

    /// Whether this is its name.
    pub fn is_named(self, name: &str) -> bool {
        self.name() == name
    }

    /// Its name, if it is not the browser that decides.
    pub fn forced(self) -> Option<&'static str> {
        (self != Theme::Auto).then_some(self.name())
    }

    /// The value of the `color-scheme` meta tag.
    pub fn scheme(self) -> &'static str {
        self.forced().unwrap_or("light dark")
    }
}

#[derive(Debug, Deserialize)]
pub struct Choice {
    theme: String,
    #[serde(default)]
    back: String,
}

/// `POST /theme`
pub async fn set(State(site): State<Arc<Site>>, Form(choice): Form<Choice>) -> Response {
    let theme = Theme::named(&choice.theme).unwrap_or_default();
    let back = local_path(&choice.back).unwrap_or("/");
    let mut response = Redirect::to(back).into_response();
    let (name, path) = (theme.name(), site.base_path.for_cookies());
    let cookie = format!("{COOKIE}={name}; Path={path}; Max-Age={A_YEAR_SECS}; SameSite=Lax; HttpOnly");
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}
