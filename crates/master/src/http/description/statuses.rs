//! Statuses of errors, their codes, and the headers that come with them.

use super::Header;

/// An HTTP status of the API, and what comes with it.
#[derive(Debug)]
pub struct Status {
    /// Its number.
    pub status: u16,
    /// Its name in the description of the API.
    pub name: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// The codes of its problems.
    pub codes: &'static [&'static str],
    /// Headers that it has.
    pub headers: &'static [Header],
}

/// How long to wait.
const WAIT: Header = Header {
    name: "Retry-After",
    description: "Seconds after which the same request may be sent again.",
    is_always_there: true,
};

/// Every status of an error that a route of the API answers with.
pub const STATUSES: [Status; 11] = [
    Status {
        status: 400,
        name: "BadRequest",
        meaning: "The request is malformed: a parameter, a header, or the syntax of the body.",
        codes: &[
            "access_denied",
            "authorization_pending",
            "bad_request",
            "body_too_large",
            "expired_token",
            "invalid_encoding",
            "invalid_header",
            "invalid_host",
            "invalid_id",
            "invalid_json",
            "invalid_query",
            "invalid_regex",
            "invalid_toml",
            "invalid_value",
            "invalid_yaml",
            "slow_down",
            "unknown_parameter",
            "unsupported_media_type",
        ],
        headers: &[],
    },
    Status {
        status: 401,
        name: "Unauthorized",
        meaning: "No key or session (`key_missing`), or a key that is not valid (`key_invalid`), whatever the reason.",
        codes: &["key_invalid", "key_missing"],
        headers: &[Header {
            name: "WWW-Authenticate",
            description: "`Bearer realm=\"gaffer\"`.",
            is_always_there: true,
        }],
    },
    Status {
        status: 403,
        name: "Forbidden",
        meaning: "Not allowed: `scope_missing` if the key lacks a scope, which `detail` names; `forbidden` for all else, such as a \
            request that another site makes a browser send.",
        codes: &["forbidden", "scope_missing"],
        headers: &[],
    },
    Status {
        status: 404,
        name: "NotFound",
        meaning: "It does not exist, or belongs to another project.",
        codes: &["not_found"],
        headers: &[],
    },
    Status {
        status: 409,
        name: "Conflict",
        meaning: "Not possible in the present state, which `state` names.",
        codes: &["conflict"],
        headers: &[],
    },
    Status {
        status: 413,
        name: "TooLarge",
        meaning: "The body is larger than 2 MiB.",
        codes: &["too_large"],
        headers: &[],
    },
    Status {
        status: 416,
        name: "OutOfRange",
        meaning: "The range lies outside of the output.",
        codes: &["out_of_range"],
        headers: &[Header { name: "Content-Range", description: "`bytes */LENGTH`.", is_always_there: true }],
    },
    Status {
        status: 422,
        name: "Unprocessable",
        meaning: "The body can be read, and its content is invalid.",
        codes: &[
            "idempotency_key_reused",
            "invalid_body",
            "invalid_name",
            "invalid_secret",
            "invalid_spec",
            "too_large",
            "too_many_secrets",
            "too_many_templates",
            "unknown_secret",
            "unreadable_job",
        ],
        headers: &[],
    },
    Status {
        status: 429,
        name: "TooManyAttempts",
        meaning: "Too many unknown keys came from this address.",
        codes: &["too_many_attempts"],
        headers: &[WAIT],
    },
    Status {
        status: 500,
        name: "Internal",
        meaning: "Internal error; see the master's log. `output_lost`: an object with the output is missing or damaged.",
        codes: &["internal", "output_lost"],
        headers: &[],
    },
    Status {
        status: 503,
        name: "Unavailable",
        meaning: "Not at the moment: the database is away, the object storage with the output is away, the master is shutting down, or \
            another master leads.",
        codes: &[
            "busy",
            "database_too_slow",
            "database_unavailable",
            "not_ready",
            "output_unavailable",
            "secrets_unavailable",
            "shutting_down",
            "standby",
        ],
        headers: &[WAIT],
    },
];
