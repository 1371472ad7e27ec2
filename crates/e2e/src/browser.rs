//! A real Chromium, driven through WebDriver.

use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fantoccini::{Client, ClientBuilder};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::{PATIENCE, eventually};

/// A browser with one window; it ends with this value.
pub struct Browser {
    pub window: Client,
    _driver: Child,
    _profile: tempfile::TempDir,
}

/// How the window looks at pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Prefers light.
    Light,
    /// Prefers dark.
    Dark,
}

impl Browser {
    /// Opens a window. None, loudly, where there is no Chromium.
    pub async fn open(width: u32, height: u32, scheme: Scheme) -> Option<Browser> {
        Browser::open_with(width, height, scheme, &[]).await
    }

    /// The same with more arguments for Chromium.
    pub async fn open_with(width: u32, height: u32, scheme: Scheme, arguments: &[&str]) -> Option<Browser> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let profile = tempfile::Builder::new().prefix("gaffer-browser-").tempdir().unwrap();
        let Some((driver, port)) = driver().await else {
            #[expect(clippy::print_stderr, reason = "a skipped test says why")]
            {
                eprintln!("SKIPPED: there is no chromedriver on this machine (Debian: chromium-driver)");
            }
            return None;
        };
        let dark = if scheme == Scheme::Dark { "0" } else { "1" };
        let mut capabilities = json!({
            "goog:chromeOptions": { "args": [
                "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                "--disable-dev-shm-usage", "--hide-scrollbars",
                format!("--blink-settings=preferredColorScheme={dark}"),
                format!("--user-data-dir={}", profile.path().display()),
            ]},
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let args = capabilities["goog:chromeOptions"]["args"].as_array_mut().unwrap();
        args.extend(arguments.iter().map(|argument| json!(argument)));
        let serde_json::Value::Object(capabilities) = capabilities else { panic!() };
        let window = eventually("the browser is up", async || {
            let mut builder = ClientBuilder::rustls().ok()?;
            builder.capabilities(capabilities.clone());
            builder.connect(&format!("http://127.0.0.1:{port}")).await.ok()
        })
        .await;
        let browser = Browser { window, _driver: driver, _profile: profile };
        browser.resize(width, height).await;
        Some(browser)
    }

    /// Makes the page so wide and high, also narrower than a window can be.
    pub async fn resize(&self, width: u32, height: u32) {
        self.resize_scaled(width, height, 1.0).await;
    }

    /// The same with more than one pixel of the screen for one of the page, for sharp pictures.
    pub async fn resize_scaled(&self, width: u32, height: u32, scale: f64) {
        let mobile = width < 500;
        let params = json!({"width": width, "height": height, "deviceScaleFactor": scale, "mobile": mobile});
        self.devtools("Emulation.setDeviceMetricsOverride", params).await;
    }

    async fn devtools(&self, command: &str, params: serde_json::Value) -> serde_json::Value {
        let call = DevTools { command: command.to_owned(), params };
        self.window.issue_cmd(call).await.unwrap()
    }

    /// Goes to a page and waits until it is there.
    pub async fn visit(&self, url: &str) {
        self.window.goto(url).await.unwrap();
    }

    /// What the page shows, as text.
    pub async fn text(&self) -> String {
        let shown = self.window.execute("return document.body ? document.body.innerText : ''", vec![]).await;
        shown.ok().and_then(|text| text.as_str().map(str::to_owned)).unwrap_or_default()
    }

    /// Waits until the page shows this.
    pub async fn shows(&self, wanted: &str) {
        eventually(&format!("the page shows {wanted:?}"), async || {
            self.text().await.contains(wanted).then_some(())
        })
        .await;
    }

    /// The value of a JavaScript expression.
    pub async fn value(&self, expression: &str) -> serde_json::Value {
        self.window.execute(&format!("return {expression}"), vec![]).await.unwrap()
    }

    /// Clicks what this selector finds.
    pub async fn click(&self, selector: &str) {
        let found = self.window.find(fantoccini::Locator::Css(selector)).await;
        found.unwrap_or_else(|error| panic!("{selector}: {error}")).click().await.unwrap();
    }

    /// Types into the field that this selector finds.
    pub async fn fill(&self, selector: &str, text: &str) {
        let found = self.window.find(fantoccini::Locator::Css(selector)).await;
        let field = found.unwrap_or_else(|error| panic!("{selector}: {error}"));
        field.clear().await.unwrap();
        field.send_keys(text).await.unwrap();
    }

    /// Makes the page believe that its reader prefers that scheme from now on.
    pub async fn prefer(&self, scheme: Scheme) {
        let value = if scheme == Scheme::Dark { "dark" } else { "light" };
        let features = json!([{"name": "prefers-color-scheme", "value": value}]);
        self.devtools("Emulation.setEmulatedMedia", json!({"features": features})).await;
    }

    /// Keeps a picture of the page beside the build, for people to look at, if `GAFFER_SCREENSHOTS` is set: to draw them
    /// all takes longer than the tests.
    pub async fn screenshot(&self, name: &str) {
        if std::env::var_os("GAFFER_SCREENSHOTS").is_none() {
            return;
        }
        let picture = self.window.screenshot().await.unwrap();
        let test = std::env::current_exe().unwrap();
        let dir = test.parent().unwrap().parent().unwrap().join("screenshots");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(format!("{name}.png")), picture).unwrap();
    }

    /// A picture of the window as WebP, with a quality of 0 to 100.
    pub async fn webp(&self, quality: u8) -> Vec<u8> {
        let params = json!({"format": "webp", "quality": quality});
        let answer = self.devtools("Page.captureScreenshot", params).await;
        STANDARD.decode(answer["data"].as_str().unwrap()).unwrap()
    }

    /// Ends the session in order.
    pub async fn close(self) {
        let _ = self.window.close().await;
    }
}

/// Starts a WebDriver, and says where it listens; none if there is none on this machine. It takes a port that is free for
/// IPv4, and ends if another program has the same for IPv6: then another is tried.
async fn driver() -> Option<(Child, u16)> {
    for _ in 0..20 {
        let driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let mut driver = driver.ok()?;
        if let Some(port) = port_of(&mut driver).await {
            return Some((driver, port));
        }
    }
    panic!("chromedriver ends again and again before it says its port");
}

/// The port that a WebDriver says it listens on; none if it ends first. What else it says is read, and dropped.
async fn port_of(driver: &mut Child) -> Option<u16> {
    let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
    let reading = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            let port =
                line.split_once("started successfully on port ").map(|(_, rest)| rest.trim_end_matches('.'));
            if let Some(port) = port.and_then(|port| port.trim().parse().ok()) {
                return Some(port);
            }
        }
        None
    };
    let port = tokio::time::timeout(*PATIENCE, reading).await.expect("chromedriver says no port")?;
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Some(port)
}

/// A command of Chromium's own, beyond WebDriver.
#[derive(Debug)]
struct DevTools {
    command: String,
    params: serde_json::Value,
}

impl fantoccini::wd::WebDriverCompatibleCommand for DevTools {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/goog/cdp/execute", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        let body = json!({"cmd": self.command, "params": self.params});
        (http::Method::POST, Some(body.to_string()))
    }
}
