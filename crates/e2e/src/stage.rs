//! A running master, and its workers.

use std::path::PathBuf;

use gaffer_domain::ProjectId;
use gaffer_domain::scopes::Scopes;
use gaffer_domain::worker::Sharing;
use gaffer_master::Running;
use gaffer_master::config::{DatabaseUrl, MasterConfig, OUTPUT_STORE_AFTER, SecretsKey, SecretsKeyConfig};
use gaffer_master::control::Control;
use gaffer_master::operations::sign_in::FIRST_USER;
use gaffer_master::records::KeyKind;
use gaffer_master::secret::{NewSecret, Purpose};
use gaffer_master::store::keys::NewKey;
use reqwest::header::{ACCEPT, COOKIE, LOCATION, SET_COOKIE};
use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::cluster::fresh_database;

/// The master key of secrets in tests.
pub const SECRETS_KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/// A master with its own database, in this process.
pub struct Stage {
    pub running: Running,
    pub database_url: String,
    /// A client with an administrator's key.
    pub client: Client,
    /// A key that lets workers in.
    pub worker_key: String,
}

impl Stage {
    /// Starts a master on an empty database.
    pub async fn set() -> Stage {
        Stage::on(fresh_database().await).await
    }

    /// Starts a master on a database that may have been used before.
    pub async fn on(database_url: String) -> Stage {
        Stage::with(database_url, |_| {}).await
    }

    /// Starts a master with settings of one's own.
    pub async fn with(database_url: String, change: impl FnOnce(&mut MasterConfig)) -> Stage {
        let running = Stage::start(&database_url, change).await;
        let key = key(&running.control, Purpose::UserKey).await;
        let worker_key = key_of_worker(&running.control).await;
        let client = Client::new(&format!("http://{}", running.api), &key);
        Stage { running, database_url, client, worker_key }
    }

    /// Starts a master, and adds no user of the tests.
    pub async fn without_user(database_url: String) -> Running {
        Stage::start(&database_url, |_| {}).await
    }

    async fn start(database_url: &str, change: impl FnOnce(&mut MasterConfig)) -> Running {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut config = MasterConfig {
            database_url: Some(DatabaseUrl(database_url.to_owned())),
            dashboard_addr: "127.0.0.1:0".to_owned(),
            api_addr: "127.0.0.1:0".to_owned(),
            worker_addr: "127.0.0.1:0".to_owned(),
            public_url: None,
            data_dir: Some(PathBuf::from("/nonexistent")),
            pg_bin: None,
            strategy: Default::default(),
            rebalance: Default::default(),
            connections: Default::default(),
            forget_workers: Default::default(),
            audit_retention: Default::default(),
            retention: Default::default(),
            leader_lease: Default::default(),
            output_store: None,
            output_store_after: OUTPUT_STORE_AFTER,
            metrics_token: None,
            registration: Default::default(),
            tls: Default::default(),
            oidc: Default::default(),
            secrets_key: SecretsKeyConfig {
                secrets_key: Some(SecretsKey::from(SECRETS_KEY)),
                ..SecretsKeyConfig::default()
            },
        };
        change(&mut config);
        Box::pin(gaffer_master::start(&config, CancellationToken::new())).await.unwrap()
    }

    /// A client with the key of another user of the same project.
    pub async fn another_user(&self, name: &str) -> Client {
        let store = &self.running.control.store;
        let project = store.project_default().await.unwrap();
        let user = store.user_ensure(name, project).await.unwrap();
        let secret = NewSecret::new(Purpose::UserKey);
        store.key_insert(project, new_key(&secret, Some(user), name)).await.unwrap();
        Client::new(&format!("http://{}", self.running.api), &secret.text)
    }

    pub fn worker_url(&self) -> String {
        format!("ws://{}/worker", self.running.workers)
    }

    /// Signs in to the dashboard as the user of that client's key; returns the cookie.
    pub async fn sign_in(&self, client: &Client) -> String {
        let link = client.post("/login-links", &serde_json::json!({})).await;
        let url = link.body["url"].as_str().unwrap();
        let response = self.page(&url[url.find("/login").unwrap()..], "").await;
        let cookie = response.headers()[SET_COOKIE].to_str().unwrap();
        cookie.split(';').next().unwrap().to_owned()
    }

    /// A page of the dashboard, as a browser without JavaScript asks for it. An address without a project leads to one with it.
    pub async fn page(&self, path: &str, cookie: &str) -> reqwest::Response {
        let response = self.page_at(path, cookie).await;
        let place = response.headers().get(LOCATION).map(|place| place.to_str().unwrap().to_owned());
        match place.filter(|place| place.contains("/projects/")) {
            Some(place) => self.page_at(&place, cookie).await,
            None => response,
        }
    }

    /// The same without a way from one address to another.
    pub async fn page_at(&self, path: &str, cookie: &str) -> reqwest::Response {
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        let request = http.get(format!("http://{}{path}", self.running.dashboard));
        request.header(ACCEPT, "text/html").header(COOKIE, cookie).send().await.unwrap()
    }

    /// Takes the master down; the database stays. Returns its URL.
    pub async fn strike(self) -> String {
        self.running.stop().await;
        self.database_url
    }
}

async fn key_of_worker(control: &Control) -> String {
    key(control, Purpose::WorkerKey).await
}

/// Makes a key straight in the store.
pub async fn key(control: &Control, purpose: Purpose) -> String {
    let project = control.store.project_default().await.unwrap();
    key_in(control, project, FIRST_USER, purpose).await
}

/// The same in a project of your choice; a user's key is that user's.
pub async fn key_in(control: &Control, project: ProjectId, user: &str, purpose: Purpose) -> String {
    let user = control.store.user_ensure(user, project).await.unwrap();
    let user = Some(user).filter(|_| purpose == Purpose::UserKey);
    let secret = NewSecret::new(purpose);
    control.store.key_insert(project, new_key(&secret, user, "test")).await.unwrap();
    secret.text
}

/// A key to be kept, of a user or of a worker.
pub fn new_key<'a>(secret: &'a NewSecret, user_id: Option<i64>, name: &'a str) -> NewKey<'a> {
    let kind = if user_id.is_some() { KeyKind::User } else { KeyKind::Worker };
    let scopes = if user_id.is_some() { Scopes::ALL } else { Scopes::NONE };
    let (prefix, sha256) = (secret.shown(), &secret.sha256);
    let sharing = &Sharing::Own;
    NewKey {
        user_id,
        kind,
        name,
        scopes,
        prefix,
        sha256,
        sharing,
        expires_in_seconds: None,
        limits: None,
        uses: None,
    }
}
