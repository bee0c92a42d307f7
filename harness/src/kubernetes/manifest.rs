//! Objects of any kind, as YAML.
use anyhow::{Context as _, Result, bail};
use kube::{
    api::{DeleteParams, DynamicObject, Patch, PatchParams},
    core::GroupVersionKind,
    discovery::{Scope, pinned_kind},
};
use serde_json::Value;

use super::api::{Api, FIELD_MANAGER};

impl Api {
    /// Makes every object of a YAML text be as it is there.
    pub fn apply_yaml(&self, text: &str) -> Result<()> {
        self.apply_objects(&objects(text)?)
    }

    /// The same for objects that belong to a namespace which the text does not name.
    pub fn apply_yaml_in(&self, namespace: &str, text: &str) -> Result<()> {
        let mut objects = objects(text)?;
        for object in &mut objects {
            object.metadata.namespace.get_or_insert_with(|| namespace.to_owned());
        }
        self.apply_objects(&objects)
    }

    /// Makes every object be as given, one after the other.
    pub(super) fn apply_objects(&self, objects: &[DynamicObject]) -> Result<()> {
        objects.iter().try_for_each(|object| {
            let (name, api) = self.of(object)?;
            let parameters = PatchParams::apply(FIELD_MANAGER).force();
            let applied = self.run(api.patch(&name, &parameters, &Patch::Apply(object)));
            applied.map(drop).with_context(|| format!("apply {}", described(object)))
        })
    }

    /// Deletes every object of a YAML text, the last one first. One that is gone already is no error.
    pub fn delete_yaml(&self, text: &str) -> Result<()> {
        objects(text)?.iter().rev().try_for_each(|object| {
            let (name, api) = self.of(object)?;
            match self.run(api.delete(&name, &DeleteParams::default())) {
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                result => result.map(drop).with_context(|| format!("delete {}", described(object))),
            }
        })
    }

    /// The name of an object, and where it belongs.
    fn of(&self, object: &DynamicObject) -> Result<(String, kube::Api<DynamicObject>)> {
        let types = object.types.as_ref().context("an object without apiVersion and kind")?;
        let kind = GroupVersionKind::try_from(types).with_context(|| described(object))?;
        let found = self.run(pinned_kind(&self.client(), &kind));
        let (resource, abilities) =
            found.with_context(|| format!("look up the kind of {}", described(object)))?;
        let namespace = object.metadata.namespace.as_deref().unwrap_or("default");
        let api = match abilities.scope {
            Scope::Namespaced => kube::Api::namespaced_with(self.client(), namespace, &resource),
            Scope::Cluster => kube::Api::all_with(self.client(), &resource),
        };
        Ok((object.metadata.name.clone().context("an object without a name")?, api))
    }
}

/// The documents of a YAML text; lists are taken apart.
pub(super) fn objects(text: &str) -> Result<Vec<DynamicObject>> {
    let mut objects = Vec::new();
    for document in text.split("\n---") {
        let value: Value = serde_saphyr::from_str(document.trim_start_matches('-'))
            .with_context(|| format!("read YAML: {:.200}", document.trim()))?;
        match value {
            Value::Null => {}
            Value::Object(_) => {
                objects.push(serde_json::from_value(value).context("read an object of the API")?);
            }
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                bail!("not an object of the API: {value}")
            }
        }
    }
    Ok(objects)
}

fn described(object: &DynamicObject) -> String {
    let kind = object.types.as_ref().map(|types| types.kind.as_str()).unwrap_or_default();
    format!("{kind} {}", object.metadata.name.as_deref().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_taken_one_by_one() {
        let text = "# A comment\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\n# nothing\n---\n\
                    apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}\ndata:\n  text: |\n    one\n    two\n";
        let names: Vec<String> = objects(text).expect("objects").iter().map(described).collect();
        assert_eq!(names, ["Namespace a", "ConfigMap b"]);
        let error = objects("[1, 2]").expect_err("a list is no object");
        assert!(error.to_string().contains("not an object"), "{error}");
    }
}
