#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::fs;

use super::*;

fn own(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/certificates").join(name)
}

/// A certificate of files that a test can replace.
async fn copied(dir: &Path) -> anyhow::Result<Certificate> {
    fs::copy(own("server.pem"), dir.join("cert.pem"))?;
    fs::copy(own("server.key"), dir.join("key.pem"))?;
    Certificate::load(&dir.join("cert.pem"), &dir.join("key.pem")).await
}

#[tokio::test]
async fn a_new_certificate_is_loaded_and_a_broken_one_leaves_the_old_one_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let certificate = copied(dir.path()).await.unwrap();
    let (first, state) = (certificate.config(), certificate.state(Utc::now()));
    assert_eq!(state.expires_at.unwrap().to_rfc3339(), "2126-11-05T02:45:51+00:00");
    assert_eq!(state.problem, None);

    // Between the two files of a renewal they do not fit: nobody is told at once.
    fs::copy(own("renewed.pem"), dir.path().join("cert.pem")).unwrap();
    certificate.look().await;
    assert_eq!(certificate.state(Utc::now()), state);
    fs::copy(own("renewed.key"), dir.path().join("key.pem")).unwrap();
    certificate.look().await;
    let second = certificate.config();
    assert!(!Arc::ptr_eq(&first, &second), "the new one is used");
    assert_eq!(certificate.state(Utc::now()).problem, None);

    for (file, content) in [("cert.pem", "nonsense"), ("key.pem", "")] {
        let before = certificate.config();
        let whole = fs::read(dir.path().join(file)).unwrap();
        fs::write(dir.path().join(file), content).unwrap();
        certificate.look().await;
        assert_eq!(certificate.state(Utc::now()).problem, None, "{file}: not certain yet");
        certificate.look().await;
        let problem = certificate.state(Utc::now()).problem.unwrap();
        assert!(problem.contains(file) && problem.contains("the previous one still is"), "{problem}");
        assert!(Arc::ptr_eq(&before, &certificate.config()));
        fs::write(dir.path().join(file), whole).unwrap();
        certificate.look().await;
        assert_eq!(certificate.state(Utc::now()).problem, None, "{file} is good again");
    }
    fs::remove_file(dir.path().join("key.pem")).unwrap();
    certificate.look().await;
    certificate.look().await;
    assert!(certificate.state(Utc::now()).problem.unwrap().contains("GAFFER_TLS_KEY"));
}

#[tokio::test]
async fn a_certificate_is_a_problem_two_weeks_before_it_expires() {
    let dir = tempfile::tempdir().unwrap();
    let certificate = copied(dir.path()).await.unwrap();
    let end = certificate.state(Utc::now()).expires_at.unwrap();
    let problem = |left: TimeDelta| certificate.state(end - left).problem;
    assert_eq!(problem(TimeDelta::days(15)), None);
    assert!(problem(TimeDelta::hours(13 * 24 + 1)).unwrap().contains("expires in 13 days"));
    assert!(problem(TimeDelta::zero()).unwrap().contains("has expired"));
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named_with_their_setting() {
    for (certificate, key, expected) in [
        ("none.pem", "server.key", "none.pem (GAFFER_TLS_CERT)"),
        ("server.pem", "none.key", "none.key (GAFFER_TLS_KEY)"),
        ("server.key", "server.key", "contains no certificate in PEM (GAFFER_TLS_CERT)"),
        ("server.pem", "server.pem", "contains no unencrypted private key in PEM (GAFFER_TLS_KEY)"),
        ("server.pem", "renewed.key", "does not fit the certificate"),
    ] {
        let error = Certificate::load(&own(certificate), &own(key)).await.unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains(expected), "{certificate} {key}: {error}");
    }
}
