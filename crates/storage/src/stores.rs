//! The object stores behind locations, built once per bucket or web server.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::sync::{Arc, Mutex};

use object_store::ObjectStore;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::client::HttpConnector;
use object_store::http::HttpBuilder;
use object_store::list::PaginatedListStore;
use object_store::local::LocalFileSystem;
use object_store::{ClientConfigKey, ClientOptions};

use crate::connect::Connector;
use crate::location::Cloud;
use crate::options::StoreOptions;
use crate::retry::Retry;
use crate::verdict::StoreFailure;

/// A bucket.
#[derive(Clone)]
pub(crate) struct Bucket {
    pub(crate) store: Arc<dyn ObjectStore>,
    /// The same store, listed page by page.
    pub(crate) pages: Arc<dyn PaginatedListStore>,
}

/// All stores of one configuration. Cheap to clone; clones share what they build.
#[derive(Clone)]
pub(crate) struct Stores {
    options: Arc<StoreOptions>,
    environment: Arc<Vec<(String, String)>>,
    disk: Arc<dyn ObjectStore>,
    buckets: Arc<Mutex<BTreeMap<(Cloud, String), Bucket>>>,
    servers: Arc<Mutex<BTreeMap<String, Arc<dyn ObjectStore>>>>,
}

/// The stores themselves would print their credentials' identifiers.
impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stores")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// A store cannot even be asked: settings that contradict each other or cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{0}; check the [store] section of the config file and the environment")]
pub(crate) struct SettingsError(String);

impl SettingsError {
    fn of(error: object_store::Error) -> Self {
        SettingsError(StoreFailure::of(&error).to_string())
    }
}

impl Stores {
    /// The stores of this process.
    pub(crate) fn new(options: &StoreOptions) -> Self {
        let text = |(name, value): (OsString, OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Stores::in_environment(options, std::env::vars_os().filter_map(text).collect())
    }

    /// The stores of a process with these environment variables.
    pub(crate) fn in_environment(
        options: &StoreOptions,
        environment: Vec<(String, String)>,
    ) -> Self {
        Stores {
            options: Arc::new(options.clone()),
            environment: Arc::new(environment),
            disk: Arc::new(LocalFileSystem::new()),
            buckets: Arc::default(),
            servers: Arc::default(),
        }
    }

    pub(crate) fn retry(&self) -> Retry {
        Retry::of(&self.options)
    }

    /// The whole file system of this machine, by absolute paths.
    pub(crate) fn disk(&self) -> Arc<dyn ObjectStore> {
        self.disk.clone()
    }

    pub(crate) fn bucket(&self, cloud: Cloud, name: &str) -> Result<Bucket, SettingsError> {
        let mut buckets = self.buckets.lock().expect("no panic while it is held");
        let at = (cloud, name.to_string());
        if let Some(bucket) = buckets.get(&at) {
            return Ok(bucket.clone());
        }
        let bucket = match cloud {
            Cloud::S3 => self.s3(name)?,
            Cloud::Gcs => self.gcs(name)?,
            Cloud::Azure => self.azure(name)?,
        };
        buckets.insert(at, bucket.clone());
        Ok(bucket)
    }

    /// A web server; `origin` is its `https://host:port`.
    pub(crate) fn server(&self, origin: &str) -> Result<Arc<dyn ObjectStore>, SettingsError> {
        let mut servers = self.servers.lock().expect("no panic while it is held");
        if let Some(server) = servers.get(origin) {
            return Ok(server.clone());
        }
        let server = HttpBuilder::new()
            .with_url(origin)
            .with_client_options(self.client().with_allow_http(true))
            .with_retry(self.retry().config())
            .with_http_connector(self.connector());
        let server: Arc<dyn ObjectStore> = Arc::new(server.build().map_err(SettingsError::of)?);
        servers.insert(origin.to_string(), server.clone());
        Ok(server)
    }

    fn s3(&self, name: &str) -> Result<Bucket, SettingsError> {
        let options = &self.options;
        let mut builder = AmazonS3Builder::new();
        for (variable, value) in self.environment.iter() {
            let variable = variable.to_ascii_lowercase();
            // Names that are not its own are other programs'.
            if let (true, Ok(key)) = (variable.starts_with("aws_"), variable.parse()) {
                builder = builder.with_config(key, value);
            }
        }
        let endpoint = options.s3_endpoint.clone();
        let endpoint = endpoint
            .or_else(|| builder.get_config_value(&AmazonS3ConfigKey::S3Endpoint))
            .or_else(|| builder.get_config_value(&AmazonS3ConfigKey::Endpoint))
            .filter(|endpoint| !endpoint.is_empty());
        let from_env = |key| {
            let value = builder.get_config_value(&key).unwrap_or_default();
            ["1", "true", "on", "yes", "y"].contains(&value.to_ascii_lowercase().as_str())
        };
        let allow_http = from_env(AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp))
            || endpoint.as_ref().is_some_and(|e| e.starts_with("http://"));
        let virtual_hosts = match options.s3_path_style {
            Some(path_style) => !path_style,
            None => from_env(AmazonS3ConfigKey::VirtualHostedStyleRequest),
        };
        if let Some(endpoint) = endpoint {
            // object_store wants the bucket in the endpoint's host name then.
            let endpoint = match (virtual_hosts, endpoint.split_once("://")) {
                (true, Some((scheme, host))) if !host.starts_with(&format!("{name}.")) => {
                    format!("{scheme}://{name}.{host}")
                }
                _ => endpoint,
            };
            // The S3 one goes before the general one, whichever the environment has set.
            builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
        }
        if let Some(region) = &options.s3_region {
            builder = builder.with_region(region);
        }
        if options.s3_anonymous {
            builder = builder.with_skip_signature(true);
        }
        let s3 = builder
            .with_virtual_hosted_style_request(virtual_hosts)
            .with_bucket_name(name)
            .with_client_options(self.client().with_allow_http(allow_http))
            .with_retry(self.retry().config())
            .with_http_connector(self.connector());
        let s3 = Arc::new(s3.build().map_err(SettingsError::of)?);
        Ok(Bucket {
            store: s3.clone(),
            pages: s3,
        })
    }

    #[cfg(feature = "gcp")]
    fn gcs(&self, name: &str) -> Result<Bucket, SettingsError> {
        let gcs = object_store::gcp::GoogleCloudStorageBuilder::from_env()
            .with_bucket_name(name)
            .with_client_options(self.client())
            .with_retry(self.retry().config())
            .with_http_connector(self.connector());
        let gcs = Arc::new(gcs.build().map_err(SettingsError::of)?);
        Ok(Bucket {
            store: gcs.clone(),
            pages: gcs,
        })
    }

    #[cfg(not(feature = "gcp"))]
    fn gcs(&self, _name: &str) -> Result<Bucket, SettingsError> {
        Err(not_built("gs", "gcp"))
    }

    #[cfg(feature = "azure")]
    fn azure(&self, name: &str) -> Result<Bucket, SettingsError> {
        let azure = object_store::azure::MicrosoftAzureBuilder::from_env()
            .with_container_name(name)
            .with_client_options(self.client())
            .with_retry(self.retry().config())
            .with_http_connector(self.connector());
        let azure = Arc::new(azure.build().map_err(SettingsError::of)?);
        Ok(Bucket {
            store: azure.clone(),
            pages: azure,
        })
    }

    #[cfg(not(feature = "azure"))]
    fn azure(&self, _name: &str) -> Result<Bucket, SettingsError> {
        Err(not_built("az", "azure"))
    }

    fn client(&self) -> ClientOptions {
        ClientOptions::new().with_connect_timeout(self.options.connect_timeout)
    }

    fn connector(&self) -> impl HttpConnector {
        Connector {
            silence: self.options.request_timeout,
        }
    }
}

#[cfg(not(all(feature = "gcp", feature = "azure")))]
fn not_built(scheme: &str, feature: &str) -> SettingsError {
    SettingsError(format!(
        "this build of maskmill knows no {scheme}:// locations: it was made without the feature \
         `{feature}`"
    ))
}
