//! Glewlwyd, an OpenID Connect provider of Debian, as a process with its own directory.

use std::path::Path;
use std::process::Stdio;

use reqwest::header::{COOKIE, SET_COOKIE};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::eventually;
use crate::proxies::certificate;

const PAGES: &str = "/usr/share/glewlwyd/webapp";
const SETTINGS_OF_PAGES: [&str; 2] =
    ["/etc/glewlwyd/config-2.7.json/config.json", "/etc/glewlwyd/config-2.7.json"];
const SCHEMA: &str = "/usr/share/dbconfig-common/data/glewlwyd/install/sqlite3";

/// A running provider; it is killed with this.
pub struct Glewlwyd {
    pub issuer: String,
    base: String,
    cookie: String,
    _child: Child,
    _dir: tempfile::TempDir,
}

impl Glewlwyd {
    /// Starts it with one client. None, loudly, where it is not installed.
    pub async fn start(client_secret: &str, redirect: &str) -> Option<Glewlwyd> {
        if !Path::new(SCHEMA).exists() || !Path::new(PAGES).exists() {
            #[expect(clippy::print_stderr, reason = "a skipped test says why")]
            {
                eprintln!("SKIPPED: there is no Glewlwyd on this machine (Debian: glewlwyd)");
            }
            return None;
        }
        let dir = tempfile::Builder::new().prefix("gaffer-glewlwyd-").tempdir().unwrap();
        make_database(&dir.path().join("glewlwyd.db")).await;
        copy_pages(&dir.path().join("pages")).await;
        // It takes no port 0: a free one may be another's by the time it starts.
        let mut tries = 0;
        let (child, base) = loop {
            match try_to_start(dir.path()).await {
                Some(started) => break started,
                None => tries += 1,
            }
            assert!(tries < 5, "glewlwyd does not start; its log is {:?}", log(dir.path()));
        };
        let issuer = format!("{base}/api/oidc");
        let mut provider = Glewlwyd { issuer, base, cookie: String::new(), _child: child, _dir: dir };
        provider.configure(client_secret, redirect).await;
        Some(provider)
    }

    async fn configure(&mut self, client_secret: &str, redirect: &str) {
        let read = |name: &str| std::fs::read_to_string(certificate(name)).unwrap();
        self.ask(Method::POST, "/auth/", &json!({"username": "admin", "password": "password"})).await;
        let claim = |name: &str, property: &str| json!({"name": name, "user-property": property, "type": "string", "mandatory": true});
        let plugin = json!({"module": "oidc", "name": "oidc", "display_name": "OIDC", "enabled": true, "parameters": {
            "iss": self.issuer, "jwt-type": "rsa", "jwt-key-size": "256", "key": read("provider.key"), "cert": read("provider.pem"),
            "access-token-duration": 3600, "refresh-token-duration": 3600, "code-duration": 600, "refresh-token-rolling": false,
            "auth-type-code-enabled": true, "auth-type-token-enabled": false, "auth-type-id-token-enabled": true,
            "auth-type-none-enabled": false, "auth-type-password-enabled": false, "auth-type-client-enabled": false,
            "auth-type-refresh-enabled": false, "allow-non-oidc": false, "pkce-allowed": true, "pkce-required": true,
            "pkce-method-plain-allowed": false, "subject-type": "public", "jwks-show": true,
            "claims": [claim("groups", "groups"), claim("preferred_username", "username")],
            "name-claim": "no", "email-claim": "mandatory"}});
        self.ask(Method::POST, "/mod/plugin/", &plugin).await;
        let client = json!({"client_id": "gaffer", "name": "gaffer", "confidential": true, "password": client_secret,
            "client_secret": client_secret, "enabled": true, "redirect_uri": [redirect], "authorization_type": ["code"],
            "token_endpoint_auth_method": ["client_secret_basic"], "scope": []});
        self.ask(Method::POST, "/client/?source=database", &client).await;
        let scope = json!({"name": "openid", "display_name": "Open ID", "description": "Who it is", "password_required": true,
            "password_max_age": 0, "scheme": {}});
        self.ask(Method::PUT, "/scope/openid", &scope).await;
    }

    /// Creates a user.
    pub async fn add_user(&mut self, name: &str, password: &str, groups: &[&str]) {
        let user = json!({"username": name, "name": name, "email": format!("{name}@example.org"), "password": password,
            "enabled": true, "groups": groups, "scope": ["openid"]});
        self.ask(Method::POST, "/user/?source=database", &user).await;
    }

    /// Gives a user other groups.
    pub async fn set_groups(&mut self, name: &str, groups: &[&str]) {
        let user = json!({"name": name, "email": format!("{name}@example.org"), "enabled": true, "groups": groups, "scope": ["openid"]});
        self.ask(Method::PUT, &format!("/user/{name}?source=database"), &user).await;
    }

    async fn ask(&mut self, method: Method, path: &str, body: &Value) {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = http.request(method, format!("{}/api{path}", self.base)).header(COOKIE, &self.cookie);
        let answer = request.json(body).send().await.unwrap();
        if let Some(set) = answer.headers().get(SET_COOKIE).filter(|_| self.cookie.is_empty()) {
            self.cookie = set.to_str().unwrap().split(';').next().unwrap().to_owned();
        }
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert_eq!(status, StatusCode::OK, "{path}: {text}");
    }
}

/// Copies its pages: it serves no links out of their directory, and the package's link to their settings leads to a directory.
async fn copy_pages(to: &Path) {
    let copied = Command::new("cp").arg("-rL").arg(PAGES).arg(to).output().await.unwrap();
    assert!(copied.status.success(), "{copied:?}");
    let copy = to.join("config.json");
    if copy.is_dir() {
        std::fs::remove_dir_all(&copy).unwrap();
    }
    let settings = SETTINGS_OF_PAGES.iter().find(|path| Path::new(path).is_file()).unwrap();
    std::fs::copy(settings, copy).unwrap();
}

/// Makes its database, in which users may have groups.
async fn make_database(path: &Path) {
    let field = r#"{"multiple":true,"read":true,"write":true,"profile-read":false,"profile-write":false}"#;
    let sql = format!(
        "{}\nUPDATE g_user_module_instance SET gumi_parameters = \
         json_set(gumi_parameters, '$.\"data-format\".groups', json('{field}'));\n",
        std::fs::read_to_string(SCHEMA).unwrap()
    );
    let script = path.with_extension("sql");
    std::fs::write(&script, sql).unwrap();
    let made =
        Command::new("sqlite3").arg(path).stdin(std::fs::File::open(script).unwrap()).output().await.unwrap();
    assert!(made.status.success(), "{made:?}");
}

/// None if the port was taken.
async fn try_to_start(dir: &Path) -> Option<(Child, String)> {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let base = format!("http://localhost:{port}");
    let (pages, database) = (dir.join("pages"), dir.join("glewlwyd.db"));
    let kinds = [
        (".html", "text/html"),
        (".css", "text/css"),
        (".js", "application/javascript"),
        (".json", "application/json"),
    ];
    let kinds = kinds.map(|(extension, kind)| {
        format!("{{ extension = \"{extension}\" mime_type = \"{kind}\" compress = 0 }}")
    });
    let config = format!(
        "port={port}\nbind_address=\"127.0.0.1\"\nexternal_url=\"{base}\"\nlogin_url=\"login.html\"\napi_prefix=\"api\"\n\
         static_files_path=\"{}/\"\nallow_origin=\"*\"\nlog_mode=\"console\"\nlog_level=\"INFO\"\ncookie_domain=\"\"\ncookie_secure=0\n\
         session_expiration=3600\nsession_key=\"PROVIDER_SESSION\"\nadmin_scope=\"g_admin\"\nprofile_scope=\"g_profile\"\n\
         user_module_path=\"/usr/lib/glewlwyd/user\"\nclient_module_path=\"/usr/lib/glewlwyd/client\"\n\
         user_auth_scheme_module_path=\"/usr/lib/glewlwyd/scheme\"\nplugin_module_path=\"/usr/lib/glewlwyd/plugin\"\n\
         use_secure_connection=false\nsecure_connection_key_file=\"none\"\nsecure_connection_pem_file=\"none\"\nhash_algorithm=\"SHA512\"\ndatabase = {{ type = \"sqlite3\" path = \"{}\" }};\n\
         static_files_mime_types = ( {} )\n",
        pages.display(),
        database.display(),
        kinds.join(", ")
    );
    std::fs::write(dir.join("glewlwyd.conf"), config).unwrap();
    let log = std::fs::File::create(dir.join("log")).unwrap();
    let mut child = Command::new("glewlwyd")
        .arg(format!("--config-file={}", dir.join("glewlwyd.conf").display()))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let is_up = eventually("glewlwyd is up or has ended", async || {
        if child.try_wait().unwrap().is_some() {
            return Some(false);
        }
        self::log(dir).contains("Glewlwyd started").then_some(true)
    })
    .await;
    is_up.then_some((child, base))
}

fn log(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("log")).unwrap_or_default()
}
