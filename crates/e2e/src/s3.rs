//! An S3 server as a separate process.

use std::path::Path;
use std::process::Stdio;

use gaffer_master::output_store::OutputStoreAddress;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// Credentials.
pub const ACCESS_KEY: &str = "gaffer";
pub const SECRET_KEY: &str = "a-secret-of-the-test";
const BUCKET: &str = "outputs";

/// A running server; it is killed with this.
pub struct S3Server {
    child: Child,
    port: u16,
}

impl S3Server {
    /// Starts it on a directory, with a bucket, on a free port.
    pub async fn start(directory: &Path) -> S3Server {
        std::fs::create_dir_all(directory.join(BUCKET)).unwrap();
        S3Server::start_at(directory, 0).await
    }

    async fn start_at(directory: &Path, port: u16) -> S3Server {
        let this = std::env::current_exe().unwrap();
        let found = this.ancestors().skip(1).take(2).map(|dir| dir.join("s3-server"));
        let program = found.into_iter().find(|path| path.is_file()).expect("s3-server is not built");
        let mut command = Command::new(program);
        command.arg(directory).arg(port.to_string()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).await.unwrap();
        S3Server { child, port: line.trim().parse().expect("s3-server does not listen") }
    }

    /// Kills it.
    pub async fn stop(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Starts it again where it was.
    pub async fn start_again(&mut self, directory: &Path) {
        *self = S3Server::start_at(directory, self.port).await;
    }

    /// The address of its bucket, as a master is told it.
    pub fn url(&self) -> String {
        format!("s3://{BUCKET}/some/prefix")
    }

    /// The variables that a master needs for it.
    pub fn variables(&self) -> [(&'static str, String); 5] {
        [
            ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", self.port)),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
        ]
    }

    /// Both together.
    pub fn address(&self) -> OutputStoreAddress {
        let variables = self.variables().map(|(name, value)| (name.to_owned(), value));
        OutputStoreAddress::parse(&self.url(), variables).unwrap()
    }
}
