//! Sign-in through an OpenID Connect provider: forged answers, groups, names that are taken, links with accounts; and the whole way
//! with a real provider in a real browser.

use gaffer_e2e::browser::{Browser, Scheme};
use gaffer_e2e::cluster::fresh_database;
use gaffer_e2e::eventually;
use gaffer_e2e::glewlwyd::Glewlwyd;
use gaffer_e2e::identity_provider::{CLIENT_ID, CLIENT_SECRET, IdentityProvider, LIES, Lie};
use gaffer_e2e::stage::Stage;
use gaffer_master::config::{MasterConfig, OidcConfig};
use reqwest::header::{ACCEPT, CONTENT_TYPE, COOKIE, HeaderMap, LOCATION, SET_COOKIE};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

use super::pages::look_at;
use super::people::Person;

const PASSWORD: &str = "correct horse battery";
const GROUPS: &str =
    "engineers=default:operator,sre=default:admin,root=installation-admin,none=missing:viewer";

fn settings(issuer: &str, groups: &str) -> OidcConfig {
    OidcConfig {
        oidc_issuer: Some(issuer.to_owned()),
        oidc_client_id: Some(CLIENT_ID.to_owned()),
        oidc_client_secret: Some(CLIENT_SECRET.parse().unwrap()),
        oidc_name: Some("Lab Login".to_owned()),
        oidc_user_claim: "preferred_username".to_owned(),
        oidc_groups_claim: "groups".to_owned(),
        oidc_groups: groups.parse().unwrap(),
        ..OidcConfig::default()
    }
}

async fn stage_with(issuer: &str, groups: &str) -> Stage {
    let oidc = settings(issuer, groups);
    Stage::with(fresh_database().await, |config: &mut MasterConfig| config.oidc = oidc).await
}

fn http() -> reqwest::Client {
    reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build().unwrap()
}

/// A browser with its cookies, which follows nothing by itself.
#[derive(Default, Clone)]
struct Jar {
    session: String,
    flow: String,
}

impl Jar {
    fn keep(&mut self, headers: &HeaderMap) {
        for set in headers.get_all(SET_COOKIE) {
            let pair = set.to_str().unwrap().split(';').next().unwrap();
            match pair.split_once('=').unwrap() {
                ("gaffer_session", _) => self.session = pair.to_owned(),
                ("gaffer_oidc", _) => self.flow = pair.to_owned(),
                _ => {}
            }
        }
    }

    fn cookies(&self) -> String {
        format!("{}; {}", self.session, self.flow)
    }

    fn is_signed_in(&self) -> bool {
        self.session.starts_with("gaffer_session=gfs_")
    }

    async fn get(&mut self, url: &str) -> Response {
        let answer =
            http().get(url).header(ACCEPT, "text/html").header(COOKIE, self.cookies()).send().await.unwrap();
        self.keep(answer.headers());
        answer
    }

    async fn send(&mut self, url: &str, body: &str) -> Response {
        let request = http().post(url).header(ACCEPT, "text/html").header(COOKIE, self.cookies());
        let request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        let answer = request.body(body.to_owned()).send().await.unwrap();
        self.keep(answer.headers());
        answer
    }

    /// Goes to the provider, which leads back: the address there.
    async fn way_back(&mut self, stage: &Stage, query: &str) -> String {
        let away = self.get(&format!("http://{}/login/oidc{query}", stage.running.dashboard)).await;
        assert_eq!(away.status(), StatusCode::SEE_OTHER, "{}", away.text().await.unwrap());
        location(&self.get(&location(&away)).await)
    }

    /// The whole way there and back.
    async fn sign_in(&mut self, stage: &Stage) -> (StatusCode, String) {
        let back = self.way_back(stage, "").await;
        let answer = self.get(&back).await;
        (answer.status(), answer.text().await.unwrap())
    }

    async fn status_of(&self, stage: &Stage, path: &str) -> StatusCode {
        stage.page_at(path, &self.session).await.status()
    }
}

fn location(answer: &Response) -> String {
    answer.headers()[LOCATION].to_str().unwrap().to_owned()
}

/// Where a page continues by itself.
fn continues_at(page: &str) -> &str {
    page.split_once("content=\"0; url=").expect(page).1.split('"').next().unwrap()
}

async fn member(stage: &Stage, user: &str) -> Value {
    let members = stage.client.get("/projects/default/members").await;
    let items = members.body["items"].as_array().unwrap().clone();
    items.into_iter().find(|member| member["user"] == user).unwrap_or_default()
}

async fn user(stage: &Stage, name: &str) -> Value {
    let users = stage.client.get("/users?limit=500").await;
    let items = users.body["items"].as_array().unwrap().clone();
    items.into_iter().find(|user| user["name"] == name).unwrap_or_default()
}

#[tokio::test]
async fn groups_decide_at_each_sign_in_and_what_was_made_by_hand_stays() {
    let provider = IdentityProvider::start().await;
    let stage = stage_with(&provider.issuer, GROUPS).await;
    let mut ana = Jar::default();
    provider.signs_in("subject-1", "Ana@example.org", &["engineers", "others", "none"]);
    let (status, page) = ana.sign_in(&stage).await;
    assert!(status == StatusCode::OK && ana.is_signed_in(), "{status} {page}");
    assert_eq!(continues_at(&page), "/jobs");
    assert_eq!(ana.status_of(&stage, "/projects/default/jobs").await, StatusCode::OK);
    let is = member(&stage, "ana").await;
    assert_eq!((&is["role"], &is["by_groups"]), (&json!("operator"), &json!(true)), "{is}");
    let first = ana.session.clone();
    let person = Person::with_cookie(&stage, "ana", &ana.session);
    let key = person.key("default").await;
    assert!(key.get("/jobs").await.status.is_success());

    // Another group, another role; the session of before ends.
    provider.signs_in("subject-1", "Ana@example.org", &["engineers", "sre"]);
    ana.sign_in(&stage).await;
    assert_eq!(member(&stage, "ana").await["role"], "admin");
    assert_eq!(stage.page_at("/projects/default/jobs", &first).await.status(), StatusCode::SEE_OTHER);

    // Out of all groups: out of the project, with the keys, but still a user.
    provider.signs_in("subject-1", "Ana@example.org", &[]);
    let (status, page) = ana.sign_in(&stage).await;
    assert_eq!(status, StatusCode::OK, "{page}");
    assert_eq!(member(&stage, "ana").await, json!(null));
    assert_eq!(ana.status_of(&stage, "/projects/default/jobs").await, StatusCode::NOT_FOUND);
    assert_eq!(ana.status_of(&stage, "/projects/ana/jobs").await, StatusCode::OK);
    assert_eq!(key.get("/jobs").await.status, StatusCode::UNAUTHORIZED);

    // What somebody has set by hand is no business of groups.
    let set = stage.client.post("/projects/default/members/ana", &json!({"role": "viewer"})).await;
    assert_eq!(
        (&set.body["role"], &set.body["by_groups"]),
        (&json!("viewer"), &json!(false)),
        "{}",
        set.text
    );
    for groups in [&["sre"][..], &[]] {
        provider.signs_in("subject-1", "Ana@example.org", groups);
        ana.sign_in(&stage).await;
        assert_eq!(member(&stage, "ana").await["role"], "viewer", "{groups:?}");
    }

    // Administrators of the installation.
    let is_admin = async || user(&stage, "ana").await["admin"].clone();
    provider.signs_in("subject-1", "Ana@example.org", &["root"]);
    ana.sign_in(&stage).await;
    assert_eq!(is_admin().await, true);
    provider.signs_in("subject-1", "Ana@example.org", &[]);
    ana.sign_in(&stage).await;
    assert_eq!(is_admin().await, false);

    // All of it is in the audit log.
    let installation = stage.client.get("/audit?of=installation&limit=200").await;
    let project = stage.client.get("/audit?limit=200").await;
    let items = |answer: &gaffer_e2e::client::Answer| answer.body["items"].as_array().unwrap().clone();
    let entries: Vec<Value> = [items(&installation), items(&project)].concat();
    let has = |action: &str, target: &str| {
        entries.iter().any(|entry| {
            entry["action"] == action
                && entry["target"] == target
                && entry["credential"] == "sign-in provider"
        })
    };
    for (action, target) in [
        ("register", "user ana"),
        ("sign_in", "user ana"),
        ("manage_members", "member ana"),
        ("manage_users", "user ana"),
    ] {
        assert!(has(action, target), "{action} {target}: {entries:#?}");
    }
}

#[tokio::test]
async fn no_forged_answer_of_a_provider_opens_a_session() {
    let provider = IdentityProvider::start().await;
    let stage = stage_with(&provider.issuer, "").await;
    provider.signs_in("subject-1", "ana", &[]);
    for lie in LIES {
        provider.lie(lie);
        let mut jar = Jar::default();
        let (status, page) = jar.sign_in(&stage).await;
        assert!(!jar.is_signed_in() && !status.is_success(), "{lie:?}: {status} {page}");
        assert!(page.contains("sign-in provider"), "{lie:?}: {page}");
        assert_eq!(user(&stage, "ana").await, json!(null), "{lie:?}");
    }
    // The same without a lie.
    provider.lie(Lie::None);
    let mut jar = Jar::default();
    let (status, page) = jar.sign_in(&stage).await;
    assert!(jar.is_signed_in(), "{status} {page}");
    // A new key of the provider counts as soon as it is asked again.
    provider.rotate();
    eventually("the new key counts", async || {
        let mut jar = Jar::default();
        jar.sign_in(&stage).await;
        jar.is_signed_in().then_some(())
    })
    .await;
    // What the page of more claims says of somebody else does not count.
    provider.signs_in_briefly("subject-2", "eve", &[]);
    provider.lie(Lie::OtherUserInfo);
    let (status, page) = Jar::default().sign_in(&stage).await;
    assert!(status == StatusCode::OK && page.contains("Choose a name"), "{status} {page}");
    assert_eq!(user(&stage, "eve").await, json!(null));
}

#[tokio::test]
async fn a_sign_in_ends_in_the_browser_in_which_it_began_and_leads_nowhere_else() {
    let provider = IdentityProvider::start().await;
    let stage = stage_with(&provider.issuer, "").await;
    provider.signs_in("subject-1", "ana", &[]);
    let stale = async |mut jar: Jar, back: &str| {
        let answer = jar.get(back).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{back}");
        assert!(!jar.is_signed_in(), "{back}");
    };
    let mut jar = Jar::default();
    let back = jar.way_back(&stage, "").await;
    stale(Jar::default(), &back).await;
    let mut other = Jar::default();
    other.way_back(&stage, "").await;
    stale(other, &back).await;
    stale(jar.clone(), &back.replace("state=", "state=x")).await;
    stale(jar.clone(), &back.replace("state=", "x=")).await;
    stale(jar.clone(), &back.replace("code=", "x=")).await;
    stale(jar.clone(), &format!("{back}&iss=http%3A%2F%2Fevil.example")).await;
    stale(Jar { flow: "gaffer_oidc=AAAA".to_owned(), ..jar.clone() }, &back).await;
    // A code counts once, and what the browser kept is taken away with it.
    let before = jar.clone();
    assert!(jar.get(&back).await.status().is_success() && jar.is_signed_in());
    assert_eq!(jar.flow, "gaffer_oidc=");
    stale(before, &back).await;

    for (next, expected) in [
        ("%2Fjobs%3Fstate%3Dfailed", "/jobs?state=failed"),
        ("https%3A%2F%2Fevil.example", "/jobs"),
        ("%2F%2Fevil.example", "/jobs"),
        ("%2F%5Cevil.example", "/jobs"),
    ] {
        let mut jar = Jar::default();
        let back = jar.way_back(&stage, &format!("?next={next}")).await;
        let page = jar.get(&back).await.text().await.unwrap();
        assert_eq!(continues_at(&page).replace("&#38;", "&"), expected, "{next}");
    }
    // The provider refuses.
    let mut jar = Jar::default();
    let back = jar.way_back(&stage, "").await;
    let refused = jar.get(&back.replace("code=", "error=access_denied&x=")).await;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    assert!(refused.text().await.unwrap().contains("access_denied"));
}

/// A user with a password, made by an administrator.
async fn with_password(stage: &Stage, name: &str) -> Jar {
    let person = Person::create(stage, name).await;
    let mut jar = Jar { session: person.cookie.clone(), ..Jar::default() };
    let url = format!("http://{}/projects/{name}/account/password", stage.running.dashboard);
    let set = jar.send(&url, &format!("new={}", PASSWORD.replace(' ', "+"))).await;
    assert_eq!(set.status(), StatusCode::OK);
    jar
}

#[tokio::test]
async fn a_name_that_is_taken_is_not_taken_over_and_its_user_can_link_the_provider() {
    let provider = IdentityProvider::start().await;
    let stage = stage_with(&provider.issuer, "").await;
    let base = format!("http://{}", stage.running.dashboard);
    let mut ana = with_password(&stage, "ana").await;

    provider.signs_in("impostor", "ana", &[]);
    let mut impostor = Jar::default();
    let (_, page) = impostor.sign_in(&stage).await;
    assert!(page.contains("named <strong>ana</strong> already") && !impostor.is_signed_in(), "{page}");
    for (name, status) in [("ana", StatusCode::OK), ("Not+A+Name", StatusCode::UNPROCESSABLE_ENTITY)] {
        let answer = impostor.send(&format!("{base}/login/oidc/name"), &format!("name={name}")).await;
        assert_eq!(answer.status(), status);
        assert!(!impostor.is_signed_in(), "{name}");
    }
    // Nobody chooses a name without having been at the provider.
    let stranger = Jar::default().send(&format!("{base}/login/oidc/name"), "name=new").await;
    assert_eq!(stranger.status(), StatusCode::BAD_REQUEST);
    impostor.send(&format!("{base}/login/oidc/name"), "name=ana2").await;
    assert!(impostor.is_signed_in());
    assert_eq!(impostor.status_of(&stage, "/projects/ana/jobs").await, StatusCode::NOT_FOUND);
    assert_eq!(impostor.status_of(&stage, "/projects/ana2/jobs").await, StatusCode::OK);

    // The user of that name links their own identity, with their password.
    provider.signs_in("subject-1", "ana", &[]);
    let link = format!("{base}/projects/ana/account/identities");
    let wrong = ana.send(&link, "present=wrong+password").await.text().await.unwrap();
    assert!(wrong.contains("not the present password"), "{wrong}");
    let page =
        ana.send(&link, &format!("present={}", PASSWORD.replace(' ', "+"))).await.text().await.unwrap();
    let away = continues_at(&page).replace("&#38;", "&").replace("&amp;", "&");
    let back = location(&ana.get(&away).await);
    let session = ana.session.clone();
    let linked = ana.get(&back).await;
    assert!(linked.text().await.unwrap().contains("The account is linked"));
    assert_eq!(ana.session, session, "it is a link, not a sign-in");
    let mut later = Jar::default();
    later.sign_in(&stage).await;
    assert_eq!(later.status_of(&stage, "/projects/ana/jobs").await, StatusCode::OK);
    let account = stage.page_at("/projects/ana/account", &later.session).await.text().await.unwrap();
    assert!(account.contains(&provider.issuer) && account.contains("Unlink"), "{account}");

    // An identity is one user's.
    let mut bo = with_password(&stage, "bo").await;
    let link = format!("{base}/projects/bo/account/identities");
    let page = bo.send(&link, &format!("present={}", PASSWORD.replace(' ', "+"))).await.text().await.unwrap();
    let away = continues_at(&page).replace("&#38;", "&").replace("&amp;", "&");
    let back = location(&bo.get(&away).await);
    assert_eq!(bo.get(&back).await.status(), StatusCode::CONFLICT);

    // Another site begins nothing.
    let request = http().post(&link).header(COOKIE, bo.cookies()).header("origin", "http://evil.example");
    assert_eq!(request.send().await.unwrap().status(), StatusCode::FORBIDDEN);

    let id = account.split("/account/identities/").nth(1).unwrap().split('/').next().unwrap();
    let unlink = |user: &str| format!("{base}/projects/{user}/account/identities/{id}/unlink");
    assert_eq!(bo.send(&unlink("bo"), "").await.status(), StatusCode::NOT_FOUND, "another's");
    assert_eq!(ana.send(&unlink("ana"), "").await.status(), StatusCode::SEE_OTHER);
    let (_, page) = Jar::default().sign_in(&stage).await;
    assert!(page.contains("already"), "{page}");
    // Who has no password would be locked out.
    let own = stage.page_at("/projects/ana2/account", &impostor.session).await.text().await.unwrap();
    let id = own.split("/account/identities/").nth(1).unwrap().split('/').next().unwrap();
    let page = impostor.send(&format!("{base}/projects/ana2/account/identities/{id}/unlink"), "").await;
    assert!(page.text().await.unwrap().contains("set a password first"));
    let log = stage.client.get("/audit?of=installation&limit=200").await.text;
    assert!(log.contains("link_identity") && log.contains("unlink_identity"), "{log}");
}

#[tokio::test]
async fn who_is_disabled_or_has_no_role_stays_out_and_passwords_work_without_the_provider() {
    let provider = IdentityProvider::start().await;
    let stage = stage_with(&provider.issuer, GROUPS).await;
    provider.signs_in("nobody", "nobody", &["others"]);
    let mut nobody = Jar::default();
    let (status, page) = nobody.sign_in(&stage).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(page.contains("none of their groups gives a role") && !nobody.is_signed_in(), "{page}");

    // Where the token says little, the page of more claims does.
    provider.signs_in_briefly("subject-1", "ana", &["engineers"]);
    let mut ana = Jar::default();
    let (status, page) = ana.sign_in(&stage).await;
    assert!(ana.is_signed_in(), "{status} {page}");
    assert_eq!(member(&stage, "ana").await["role"], "operator");
    stage.client.post("/users/ana/disable", &json!({})).await;
    let mut again = Jar::default();
    let (status, page) = again.sign_in(&stage).await;
    assert!(status == StatusCode::FORBIDDEN && page.contains("disabled") && !again.is_signed_in(), "{page}");

    let mut bo = with_password(&stage, "bo").await;
    drop(provider);
    let away = stage_with("http://127.0.0.1:1", "").await;
    let page = Jar::default().get(&format!("http://{}/login/oidc", away.running.dashboard)).await;
    assert_eq!(page.status(), StatusCode::SERVICE_UNAVAILABLE);
    let page = page.text().await.unwrap();
    assert!(
        page.contains("cannot be reached") && page.contains("Passwords and sign-in links work"),
        "{page}"
    );
    let form = format!("name=bo&password={}", PASSWORD.replace(' ', "+"));
    let signed = bo.send(&format!("http://{}/login", stage.running.dashboard), &form).await;
    assert_eq!(location(&signed), "/jobs");
    // Without a provider there is no way to one.
    let plain = Stage::set().await;
    assert_eq!(plain.page_at("/login/oidc", "").await.status(), StatusCode::NOT_FOUND);
    assert!(!plain.page_at("/login", "").await.text().await.unwrap().contains("/login/oidc"));
}

#[tokio::test]
async fn somebody_signs_in_through_a_real_provider_in_a_browser() {
    let Some(browser) = Browser::open(1280, 900, Scheme::Light).await else { return };
    // The provider has to know the address to come back to, and the master the provider.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let public = format!("http://localhost:{port}");
    let redirect = format!("{public}/login/oidc/callback");
    // It takes the secret as it is, while others decode it: one that is the same in both.
    let secret = "a-secret-of-the-client";
    let Some(mut provider) = Glewlwyd::start(secret, &redirect).await else { return };
    provider.add_user("ana", "correct horse", &["engineers", "staff"]).await;
    let mut oidc = settings(&provider.issuer, GROUPS);
    oidc.oidc_client_secret = Some(secret.parse().unwrap());
    let stage = Stage::with(fresh_database().await, |config| {
        config.oidc = oidc;
        config.dashboard_addr = format!("127.0.0.1:{port}");
        config.public_url = Some(public.clone());
    })
    .await;
    look_at(&browser, &format!("{public}/login?next=%2Fworkers"), "sign-in-with-provider").await;
    browser.click("a[href*='/login/oidc']").await;
    sign_in_there(&browser, "ana", "correct horse").await;
    eventually("the browser comes back, signed in, to the page that it wanted", async || {
        let here = browser.window.current_url().await.unwrap();
        (here.as_str() == format!("{public}/projects/default/workers")).then_some(())
    })
    .await;
    assert_eq!(member(&stage, "ana").await["role"], "operator");
    look_at(&browser, &format!("{public}/projects/default/account"), "account-with-provider").await;
    browser.shows("Unlink").await;
    look_at(&browser, &format!("{public}/projects/default/members"), "members-by-groups").await;
    browser.shows("by groups").await;

    // Other groups at the provider count at the next sign-in.
    provider.set_groups("ana", &["sre"]).await;
    browser.window.delete_all_cookies().await.unwrap();
    browser.visit(&format!("{public}/login")).await;
    browser.click("a[href*='/login/oidc']").await;
    sign_in_there(&browser, "ana", "correct horse").await;
    eventually("the browser is back", async || {
        let here = browser.window.current_url().await.unwrap();
        (here.as_str().starts_with(&format!("{public}/projects/"))).then_some(())
    })
    .await;
    assert_eq!(member(&stage, "ana").await["role"], "admin");
    browser.close().await;
}

/// Fills in the provider's own forms: user and password, and that gaffer may know who it is.
async fn sign_in_there(browser: &Browser, name: &str, password: &str) {
    eventually("the provider asks who it is", async || {
        let fields = browser.value("document.querySelectorAll('#username, #password').length").await;
        (fields == 2).then_some(())
    })
    .await;
    browser.fill("#username", name).await;
    browser.fill("#password", password).await;
    browser.click("form button[type=submit]").await;
    eventually("the provider lets the browser go", async || {
        let here = browser.window.current_url().await.unwrap();
        if here.path().contains("login.html") {
            continue_there(browser).await;
        }
        (!here.path().contains("login.html")).then_some(())
    })
    .await;
}

/// Presses the button with which the provider goes on, if it shows one.
async fn continue_there(browser: &Browser) {
    let press = "(() => { const b = [...document.querySelectorAll('button, a.btn')].find(b => !b.disabled && \
         /^(continue|grant access|login)$/i.test(b.innerText.trim())); if (b) { b.click(); } return !!b; })()";
    let _ = browser.window.execute(&format!("return {press}"), vec![]).await;
}
