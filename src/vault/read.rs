//! Reads what lies in a key-value engine, of either version.
//!
//! ```text
//!  path ─▶ which engine is mounted there? ─▶ version 1: as it is │ version 2: mount/data/rest ─▶ Read
//! ```

use std::pin::Pin;
use std::sync::PoisonError;

use zeroize::Zeroizing;

use super::answer::{Answer, Error};
use super::{Ask, Vault};
use crate::secret::{Deposits, Secret};

/// What is mounted somewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Engine {
    /// What it has is read as it is, as of any engine.
    Plain,
    /// Key-value with versions.
    Versioned,
}

/// What was read.
pub struct Read {
    path: String,
    answer: Answer,
    engine: Engine,
}

impl Vault {
    /// What lies at a path. `engine`: where it is known, the vault is not asked. `version` is the one that is wanted, of an
    /// engine that has several.
    ///
    /// # Errors
    /// When there is nothing, or it is not told.
    pub async fn read(&self, path: &str, engine: Option<Engine>, version: Option<u64>) -> Result<Read, Error> {
        let (mount, engine) = match engine {
            Some(engine) => (assumed_mount(path).to_owned(), engine),
            None => self.mounted_at(path).await?,
        };
        let outcome = self.ask(Ask::get(&whole(path, &mount, engine, version))).await;
        if outcome.is_err() {
            // Something else may be mounted there by now.
            self.engines.lock().unwrap_or_else(PoisonError::into_inner).remove(&mount);
        }
        let answer = outcome?;
        if engine == Engine::Versioned && !answer.data["data"].is_object() {
            return Err(Error::Nothing(path.to_owned()));
        }
        Ok(Read { path: path.to_owned(), answer, engine })
    }

    /// The mount that a path lies in, and what is mounted there.
    async fn mounted_at(&self, path: &str) -> Result<(String, Engine), Error> {
        let known = {
            let engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
            let found = engines.iter().find(|(mount, _)| path.starts_with(&format!("{mount}/")));
            found.map(|(mount, engine)| (mount.clone(), *engine))
        };
        if let Some(known) = known {
            return Ok(known);
        }
        // Whoever may read anything below may ask this.
        let answer = self.ask(Ask::get(&format!("sys/internal/ui/mounts/{path}"))).await?;
        let mount = answer.data["path"].as_str().ok_or_else(|| Error::Malformed(path.to_owned()))?;
        let mount = mount.trim_end_matches('/').to_owned();
        let versioned = answer.data["type"] == "kv" && answer.data["options"]["version"] == "2";
        let engine = if versioned { Engine::Versioned } else { Engine::Plain };
        let mut engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        if engines.len() < MOST_MOUNTS {
            engines.insert(mount.clone(), engine);
        }
        Ok((mount, engine))
    }
}

/// Where something is mounted of which only the version is known: before `data`, or else at the first segment.
fn assumed_mount(path: &str) -> &str {
    let before = path.split_once("/data/").or_else(|| path.split_once('/'));
    before.map_or(path, |(mount, _)| mount)
}

/// The path as the API has it. `secret/ci` and `secret/data/ci` are the same, as people write either.
fn whole(path: &str, mount: &str, engine: Engine, version: Option<u64>) -> String {
    let rest = path.strip_prefix(mount).unwrap_or_default().trim_start_matches('/');
    let version = version.map(|version| format!("?version={version}")).unwrap_or_default();
    match engine {
        Engine::Plain => path.to_owned(),
        Engine::Versioned if rest.starts_with("data/") => format!("{path}{version}"),
        Engine::Versioned => format!("{mount}/data/{rest}{version}"),
    }
}

impl Read {
    /// The number of the version that was read, of an engine that has several.
    pub fn version(&self) -> Option<u64> {
        self.answer.data["metadata"]["version"].as_u64()
    }

    /// When it will be deleted, as the vault writes it.
    pub fn deletion(&self) -> Option<&str> {
        self.answer.data["metadata"]["deletion_time"].as_str().filter(|time| !time.is_empty())
    }

    /// One field, as a text.
    ///
    /// # Errors
    /// When it is not there, or is no text.
    pub fn field(&self, name: &str) -> Result<Zeroizing<String>, Error> {
        let fields = match self.engine {
            Engine::Plain => &*self.answer.data,
            Engine::Versioned => &self.answer.data["data"],
        };
        field(fields, &self.path, name)
    }
}

/// One field of what the vault gave at `path`.
pub fn field(fields: &serde_json::Value, path: &str, name: &str) -> Result<Zeroizing<String>, Error> {
    let of = |path: &str, name: &str| (path.to_owned(), name.to_owned());
    let text = match fields.get(name) {
        Some(serde_json::Value::String(text)) => Zeroizing::new(text.clone()),
        Some(serde_json::Value::Number(number)) => Zeroizing::new(number.to_string()),
        Some(_) => {
            let (path, field) = of(path, name);
            return Err(Error::Value { path, field });
        }
        None => {
            let known: Vec<&str> =
                fields.as_object().into_iter().flat_map(|fields| fields.keys()).map(String::as_str).take(16).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let (path, field) = of(path, name);
            return Err(Error::Field { path, field, known });
        }
    };
    if text.is_empty() {
        let (path, field) = of(path, name);
        return Err(Error::Value { path, field });
    }
    Ok(text)
}

impl Deposits for Vault {
    fn read<'a>(
        &'a self,
        path: &'a str,
        name: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Secret, String>> + Send + 'a>> {
        Box::pin(async move {
            let read = Vault::read(self, path, None, None).await.map_err(|error| error.to_string())?;
            let text = read.field(name).map_err(|error| error.to_string())?;
            Ok(Secret::new(text.as_bytes()))
        })
    }
}

/// Mounts that are remembered, at most.
const MOST_MOUNTS: usize = 256;
