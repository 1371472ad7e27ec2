//! The address of an object storage, and the settings of its provider.

use std::fmt::{self, Debug, Display, Formatter};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ObjectStore, RetryConfig};

const EXAMPLES: &str =
    "use s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///DIRECTORY";

/// Where output is moved to. The settings of the provider, such as credentials, are never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct OutputStoreAddress {
    provider: Provider,
    /// The bucket, the container, or the directory.
    place: String,
    prefix: Path,
    /// Environment variables of the provider: lower-case names and values.
    variables: Vec<(String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Provider {
    S3,
    GoogleCloud,
    Azure,
    File,
}

impl Provider {
    fn scheme(self) -> &'static str {
        match self {
            Provider::S3 => "s3",
            Provider::GoogleCloud => "gs",
            Provider::Azure => "az",
            Provider::File => "file",
        }
    }
}

impl OutputStoreAddress {
    /// Reads an address; `variables` are those of the environment, of which the provider's own are kept.
    ///
    /// # Errors
    /// When it is none: what is wrong, and what to write instead.
    pub fn parse(
        text: &str,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<OutputStoreAddress, String> {
        let (scheme, rest) = text.split_once("://").ok_or_else(|| format!("it is not a URL: {EXAMPLES}"))?;
        let (provider, variable_prefix) = match scheme {
            "s3" => (Provider::S3, "aws_"),
            "gs" => (Provider::GoogleCloud, "google_"),
            "az" => (Provider::Azure, "azure_"),
            "file" => (Provider::File, ""),
            other => return Err(format!("{other}:// is not supported: {EXAMPLES}")),
        };
        if rest.contains(['?', '#', '@', '%']) || rest.chars().any(|c| c.is_whitespace() || c.is_control()) {
            let problem = "it must not have credentials, parameters, spaces or escaped characters";
            return Err(format!("{problem}: {EXAMPLES}. Credentials are set in environment variables"));
        }
        if provider == Provider::File {
            if !rest.starts_with('/') {
                return Err(format!(
                    "a directory is written with three slashes, as in file:///srv/output: {EXAMPLES}"
                ));
            }
            let prefix = Path::default();
            return Ok(OutputStoreAddress {
                provider,
                place: rest.to_owned(),
                prefix,
                variables: Vec::new(),
            });
        }
        let (place, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if place.is_empty() {
            return Err(format!("it does not name a bucket: {EXAMPLES}"));
        }
        let prefix =
            Path::parse(prefix).map_err(|error| format!("its prefix is invalid ({error}): {EXAMPLES}"))?;
        let variables = variables.into_iter().filter_map(|(name, value)| {
            let name = name.to_ascii_lowercase();
            (name.starts_with(variable_prefix) && !value.is_empty()).then_some((name, value))
        });
        Ok(OutputStoreAddress { provider, place: place.to_owned(), prefix, variables: variables.collect() })
    }

    /// Whether it is a directory of this machine, maybe of a disk that can hang.
    pub(super) fn is_on_disk(&self) -> bool {
        self.provider == Provider::File
    }

    /// A client for it. Nothing is sent yet.
    pub(super) fn connect(&self) -> anyhow::Result<Arc<dyn ObjectStore>> {
        /// Sets the variables that a builder knows; programs of the provider have others.
        macro_rules! configured {
            ($builder:expr) => {{
                let builder = $builder.with_retry(retries());
                self.variables.iter().fold(builder, |builder, (name, value)| match name.parse() {
                    Ok(key) => builder.with_config(key, value),
                    Err(_) => builder,
                })
            }};
        }
        let (place, prefix) = (self.place.clone(), self.prefix.clone());
        let wrong = || {
            format!(
                "GAFFER_OUTPUT_STORE={self} cannot be used; see the variables of its provider in docs/operations.md"
            )
        };
        Ok(match self.provider {
            Provider::S3 => {
                let s3 = configured!(AmazonS3Builder::new())
                    .with_bucket_name(place)
                    .build()
                    .with_context(wrong)?;
                Arc::new(PrefixStore::new(s3, prefix))
            }
            Provider::GoogleCloud => {
                let gcs = configured!(GoogleCloudStorageBuilder::new()).with_bucket_name(place);
                Arc::new(PrefixStore::new(gcs.build().with_context(wrong)?, prefix))
            }
            Provider::Azure => {
                let azure = configured!(MicrosoftAzureBuilder::new()).with_container_name(place);
                Arc::new(PrefixStore::new(azure.build().with_context(wrong)?, prefix))
            }
            Provider::File => {
                let directory = PathBuf::from(&place);
                ensure!(
                    directory.is_dir(),
                    "GAFFER_OUTPUT_STORE={self}: {place} is not a directory. Create it for the user of the master, or mount it"
                );
                Arc::new(LocalFileSystem::new_with_prefix(directory).with_context(wrong)?.with_fsync(true))
            }
        })
    }
}

/// Someone waits for each call: better an error soon, and the next call.
fn retries() -> RetryConfig {
    let backoff = BackoffConfig {
        init_backoff: Duration::from_millis(100),
        max_backoff: Duration::from_secs(1),
        base: 2.0,
    };
    RetryConfig { backoff, max_retries: 2, retry_timeout: Duration::from_secs(10) }
}

impl Display for OutputStoreAddress {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.provider.scheme(), self.place)?;
        match self.prefix.as_ref() {
            "" => Ok(()),
            prefix => write!(f, "/{prefix}"),
        }
    }
}

impl Debug for OutputStoreAddress {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(text: &str) -> Result<OutputStoreAddress, String> {
        OutputStoreAddress::parse(text, [])
    }

    #[test]
    fn addresses_of_all_providers_are_read() {
        for text in
            ["s3://bucket", "s3://bucket/a/b", "gs://bucket/a", "az://container/a", "file:///srv/output"]
        {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        assert_eq!(parse("s3://bucket/a/").unwrap().to_string(), "s3://bucket/a");
    }

    #[test]
    fn anything_else_is_refused_with_what_is_wrong_and_what_to_write() {
        for (text, wrong) in [
            ("", "not a URL"),
            ("/srv/output", "not a URL"),
            ("https://example.org/bucket", "https:// is not supported"),
            ("s3://", "does not name a bucket"),
            ("s3:///prefix", "does not name a bucket"),
            ("file://srv/output", "three slashes"),
            ("s3://key:secret@bucket", "Credentials are set in environment variables"),
            ("s3://bucket?region=x", "must not have"),
            ("s3://bucket/a//b", "prefix is invalid"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(wrong) && error.contains("s3://BUCKET/PREFIX"), "{text}: {error}");
        }
    }

    #[test]
    fn settings_of_the_provider_are_used_and_never_printed() {
        let variables = [
            ("AWS_ACCESS_KEY_ID".to_owned(), "key".to_owned()),
            ("AWS_SECRET_ACCESS_KEY".to_owned(), "hidden".to_owned()),
            ("AWS_ALLOW_HTTP".to_owned(), "perhaps".to_owned()),
            ("AWS_PAGER".to_owned(), "less".to_owned()),
            ("HOME".to_owned(), "/root".to_owned()),
        ];
        let address = OutputStoreAddress::parse("s3://bucket", variables.clone()).unwrap();
        assert_eq!(address.variables.len(), 4);
        assert!(!format!("{address:?}").contains("hidden"));
        let error = format!("{:#}", address.connect().unwrap_err());
        assert!(error.contains("GAFFER_OUTPUT_STORE=s3://bucket") && error.contains("perhaps"), "{error}");
        assert!(parse("az://container").unwrap().connect().is_err(), "without an account");
        let missing = parse("file:///nonexistent/output").unwrap().connect().unwrap_err().to_string();
        assert!(missing.contains("Create it"), "{missing}");
    }
}
