//! The text of a manifest → objects.
use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::json;
use crate::convert::{
    self, Applied, Convert, EndpointSlice, Namespace, NetworkPolicy, Node, ObjectKey, Outcome, Pod, Service,
};

/// What a manifest says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    pub objects: Vec<(ObjectKey, Outcome<Applied>)>,
    /// Kinds of Kubernetes objects that are nothing to the dataplane.
    pub ignored: BTreeSet<String>,
}

impl Parsed {
    /// Whether there is no object that cannot be used.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.objects.iter().all(|(_, outcome)| !matches!(outcome, Outcome::Invalid { .. }))
    }
}

/// What is found on the way through a manifest.
#[derive(Default)]
struct Found {
    parsed: Parsed,
    /// The objects as JSON, one for each in `parsed`; nothing unless asked for.
    sources: Option<Vec<String>>,
}

/// A document that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("manifest {file}, document {document} (line {line}): {problem}; {remedy}")]
pub struct DocumentError {
    pub file: String,
    /// Counted from 1.
    pub document: usize,
    /// Where the document begins in the file, or where its error is.
    pub line: u64,
    pub problem: String,
    pub remedy: &'static str,
}

/// What is wrong with a document: a problem, a remedy and perhaps the line within the document.
struct Fault {
    problem: String,
    remedy: &'static str,
    line: Option<u64>,
}

impl Fault {
    fn new(problem: impl Into<String>, remedy: &'static str) -> Self {
        Self { problem: problem.into(), remedy, line: None }
    }
}

/// Parses a manifest: all of it, or nothing.
///
/// # Errors
/// One error for each document that cannot be used.
pub fn parse(file: &str, text: &str) -> Result<Parsed, Vec<DocumentError>> {
    find(file, text, Found::default()).map(|found| found.parsed)
}

/// The manifest with the version of an earlier one for each object that can be used there, but not here.
#[must_use]
pub fn mend(text: &str, earlier: &str) -> String {
    let mut good = BTreeMap::new();
    for (key, outcome, source) in sources(earlier) {
        // The first counts.
        good.entry(key).or_insert(matches!(outcome, Outcome::Usable { .. }).then_some(source));
    }
    let mended = sources(text).into_iter().map(|(key, outcome, source)| match (outcome, good.get(&key)) {
        (Outcome::Invalid { .. }, Some(Some(good))) => good.clone(),
        _ => source,
    });
    mended.collect::<Vec<_>>().join("\n---\n")
}

/// The objects of a manifest, as JSON too. A manifest that cannot be parsed has none.
fn sources(text: &str) -> Vec<(ObjectKey, Outcome<Applied>, String)> {
    let asked_for = Found { sources: Some(Vec::new()), ..Found::default() };
    let found = find("", text, asked_for).unwrap_or_default();
    let objects = found.parsed.objects.into_iter();
    objects
        .zip(found.sources.unwrap_or_default())
        .map(|((key, outcome), source)| (key, outcome, source))
        .collect()
}

fn find(file: &str, text: &str, mut found: Found) -> Result<Found, Vec<DocumentError>> {
    let mut errors = Vec::new();
    for (index, (first_line, document)) in documents(text).into_iter().enumerate() {
        if let Err(fault) = parse_document(&document, &mut found) {
            errors.push(DocumentError {
                file: file.to_owned(),
                document: index + 1,
                line: first_line + fault.line.unwrap_or(1) - 1,
                problem: fault.problem,
                remedy: fault.remedy,
            });
        }
    }
    if errors.is_empty() { Ok(found) } else { Err(errors) }
}

/// The documents of a file and the lines they begin at, split at `---` as `kubectl` does.
fn documents(text: &str) -> Vec<(u64, String)> {
    let mut documents = vec![(1, String::new())];
    for (line, number) in text.split_inclusive('\n').zip(1..) {
        match line.strip_prefix("---") {
            Some(rest) if rest.trim_end().is_empty() || rest.starts_with([' ', '\t']) => {
                // What follows on the line belongs to the document; the separator is kept as spaces for columns.
                documents.push((number, format!("   {rest}")));
            }
            _ => {
                if let Some((_, document)) = documents.last_mut() {
                    document.push_str(line);
                }
            }
        }
    }
    // Nothing but comments before a separator is no document.
    let is_blank =
        |document: &str| document.lines().all(|line| line.trim().is_empty() || line.trim().starts_with('#'));
    documents.retain(|(_, document)| !is_blank(document));
    documents
}

fn parse_document(text: &str, found: &mut Found) -> Result<(), Fault> {
    if let Some(value) = json::read(text) {
        return add_object(value, found);
    }
    // The limits on size guard against hostile input; whoever writes here is root already.
    let options = serde_saphyr::options! { budget: None, with_snippet: false };
    let value: Value = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let line = error.location().map(|location| location.line());
        let text = error.render_with_formatter(&serde_saphyr::UserMessageFormatter).trim().replace('\n', " ");
        // The place is within the document; people look for it within the file.
        let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
        Fault { problem: format!("is no valid YAML: {text}"), remedy: "correct the syntax", line }
    })?;
    if value.is_null() { Ok(()) } else { add_object(value, found) }
}

fn add_object(mut value: Value, found: &mut Found) -> Result<(), Fault> {
    let field = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (version, kind) = (field("apiVersion"), field("kind"));
    if version.is_empty() || kind.is_empty() {
        return Err(Fault::new("has no apiVersion or no kind", "begin each object with both"));
    }
    let object_kind = kind.strip_suffix("List");
    if let (Some(object_kind), Some(Value::Array(items))) = (object_kind, value.get_mut("items")) {
        return std::mem::take(items).into_iter().try_for_each(|mut item| {
            // The API server's typed lists leave out what all items share.
            if let (Value::Object(fields), false) = (&mut item, object_kind.is_empty()) {
                fields.entry("apiVersion").or_insert_with(|| version.clone().into());
                fields.entry("kind").or_insert_with(|| object_kind.into());
            }
            add_object(item, found)
        });
    }
    match (version.as_str(), kind.as_str()) {
        ("v1", "List") => Err(Fault::new("is a List without items", "list the objects under items")),
        ("v1", "Service") => add::<Service>(value, Scope::Namespaced, found),
        ("v1", "Pod") => add::<Pod>(value, Scope::Namespaced, found),
        ("v1", "Namespace") => add::<Namespace>(value, Scope::Cluster, found),
        ("v1", "Node") => add::<Node>(value, Scope::Cluster, found),
        ("discovery.k8s.io/v1", "EndpointSlice") => add::<EndpointSlice>(value, Scope::Namespaced, found),
        ("networking.k8s.io/v1", "NetworkPolicy") => add::<NetworkPolicy>(value, Scope::Namespaced, found),
        _ if is_of_no_concern(&version, &kind) => {
            found.parsed.ignored.insert(format!("{kind} ({version})"));
            Ok(())
        }
        _ => Err(Fault::new(
            format!("is of the unknown kind {kind:?} in apiVersion {version:?}"),
            "correct kind and apiVersion, or remove the document",
        )),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Namespaced,
    Cluster,
}

/// The namespace of objects that name none.
const DEFAULT_NAMESPACE: &str = "default";

fn add<K: Convert + DeserializeOwned>(value: Value, scope: Scope, found: &mut Found) -> Result<(), Fault> {
    let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let kind = convert::kind_name(K::KIND);
    if name.is_empty() {
        return Err(Fault::new(format!("{kind} without metadata.name"), "name the object"));
    }
    if let Some(sources) = &mut found.sources {
        sources.push(value.to_string());
    }
    let mut object: K = serde_path_to_error::deserialize(value).map_err(|error| {
        let problem = format!("{kind} {name}: {}: {}", error.path(), error.inner());
        Fault::new(problem, "give the field the type that the Kubernetes API has")
    })?;
    let metadata = object.meta_mut();
    metadata.namespace = match scope {
        Scope::Cluster => None,
        Scope::Namespaced => Some(
            metadata
                .namespace
                .take()
                .filter(|n| !n.is_empty())
                .unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()),
        ),
    };
    found.parsed.objects.push(convert::convert(&object));
    Ok(())
}

/// Kinds of the groups in use that say nothing to the dataplane; whatever is in another group is ignored too. A
/// kind in neither is a misspelling.
fn is_of_no_concern(version: &str, kind: &str) -> bool {
    match version.split_once('/').map(|(group, _)| group) {
        None => version == "v1" && CORE_KINDS.contains(&kind),
        Some("discovery.k8s.io" | "extensions") => false,
        Some("networking.k8s.io") => matches!(kind, "Ingress" | "IngressClass" | "IPAddress" | "ServiceCIDR"),
        Some(_) => true,
    }
}

const CORE_KINDS: [&str; 14] = [
    "Binding",
    "ComponentStatus",
    "ConfigMap",
    "Endpoints",
    "Event",
    "LimitRange",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "PodTemplate",
    "ReplicationController",
    "ResourceQuota",
    "Secret",
    "ServiceAccount",
    "Status",
];

#[cfg(test)]
mod tests {
    use super::{mend, parse};
    use crate::convert::Outcome;

    const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: shop}\n";

    fn keys(text: &str) -> Vec<String> {
        parse("a.yaml", text).unwrap().objects.iter().map(|(key, _)| key.to_string()).collect()
    }

    fn errors(text: &str) -> Vec<String> {
        parse("a.yaml", text).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_file_holds_documents_lists_or_json() {
        for text in [
            POD.to_owned(),
            format!("# a comment\n---\n{POD}---\n\n---\n# nothing\n"),
            "{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {\"name\": \"web\", \"namespace\": \"shop\"}}"
                .to_owned(),
            "apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop}}]"
                .to_owned(),
            "apiVersion: v1\nkind: PodList\nitems: [{metadata: {name: web, namespace: shop}}]".to_owned(),
            "--- {apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop}}".to_owned(),
        ] {
            assert_eq!(keys(&text), ["Pod shop/web"], "{text}");
        }
        assert_eq!(keys(""), Vec::<String>::new());
        assert_eq!(keys(&format!("{POD}---\n{}", POD.replace("web", "db"))), ["Pod shop/web", "Pod shop/db"]);
    }

    #[test]
    fn objects_without_namespace_are_in_the_default_one_and_nodes_in_none() {
        assert_eq!(keys("{apiVersion: v1, kind: Pod, metadata: {name: web}}"), ["Pod default/web"]);
        assert_eq!(keys("{apiVersion: v1, kind: Node, metadata: {name: n1, namespace: x}}"), ["Node n1"]);
    }

    #[test]
    fn each_broken_document_is_named_with_its_number_and_remedy() {
        for (broken, expected) in [
            ("kind: Pod", "has no apiVersion or no kind; begin each object with both"),
            ("just text", "has no apiVersion or no kind; begin each object with both"),
            (
                "{apiVersion: v1, kind: Servce, metadata: {name: a}}",
                "is of the unknown kind \"Servce\" in apiVersion \"v1\"; correct kind and apiVersion, or remove the document",
            ),
            (
                "{apiVersion: extensions/v1beta1, kind: NetworkPolicy, metadata: {name: a}}",
                "is of the unknown kind \"NetworkPolicy\" in apiVersion \"extensions/v1beta1\"; correct kind and \
                 apiVersion, or remove the document",
            ),
            ("{apiVersion: v1, kind: Pod}", "Pod without metadata.name; name the object"),
            (
                "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: '80'}]}}",
                "Service a: spec.ports[0].port: invalid type: string \"80\", expected i64; give the field the type that \
                 the Kubernetes API has",
            ),
            ("{apiVersion: v1, kind: List}", "is a List without items; list the objects under items"),
        ] {
            let found = errors(&format!("{POD}---\n{broken}\n---\n{POD}"));
            assert_eq!(found, [format!("manifest a.yaml, document 2 (line 4): {expected}")], "{broken}");
        }
    }

    #[test]
    fn a_syntax_error_is_found_in_its_line() {
        let found = errors(&format!("{POD}---\napiVersion: v1\nkind: [Pod\nmetadata: x\n"));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("manifest a.yaml, document 2 (line "), "{found:?}");
        assert!(
            found[0].contains("is no valid YAML") && found[0].ends_with("; correct the syntax"),
            "{found:?}"
        );
    }

    #[test]
    fn kinds_of_no_concern_are_ignored_by_name() {
        let text = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}}\n---\n\
                    {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}\n---\n\
                    {apiVersion: serving.knative.dev/v1, kind: Service, metadata: {name: a}}\n";
        let parsed = parse("a.yaml", text).unwrap();
        assert!(parsed.objects.is_empty());
        let ignored: Vec<_> = parsed.ignored.iter().map(String::as_str).collect();
        assert_eq!(ignored, ["ConfigMap (v1)", "Deployment (apps/v1)", "Service (serving.knative.dev/v1)"]);
    }

    #[test]
    fn a_quoted_number_is_text_and_a_bare_one_is_not() {
        let policy = |port: &str| {
            format!(
                "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: a}}, \
                 spec: {{ingress: [{{ports: [{{port: {port}}}]}}]}}}}"
            )
        };
        let outcome = |port: &str| parse("a.yaml", &policy(port)).unwrap().objects.remove(0).1;
        assert!(matches!(outcome("80"), Outcome::Usable { .. }));
        assert!(matches!(outcome("'80'"), Outcome::Invalid { .. }));
    }

    #[test]
    fn mending_takes_the_earlier_version_of_what_cannot_be_used_and_of_nothing_else() {
        let service = |name: &str, address: &str| {
            format!(
                "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, \
                 spec: {{clusterIP: {address}, ports: [{{port: 80}}]}}}}\n---\n"
            )
        };
        let [web, db, new] = ["web", "db", "new"].map(|name| move |address: &str| service(name, address));
        let earlier = web("10.96.0.1") + &db("10.96.0.2") + &service("old", "10.96.0.3");
        let broken = web("10.96.0.256") + &db("10.96.0.4") + &new("x");
        let mended = mend(&broken, &earlier);
        let expected = web("10.96.0.1") + &db("10.96.0.4") + &new("x");
        assert_eq!(parse("a.yaml", &mended), parse("a.yaml", &expected));
        assert!(!parse("a.yaml", &mended).unwrap().is_good(), "{mended}");
        assert_eq!(mend(&broken, &mended), mended);
        assert_eq!(mend(&earlier, &broken), mend(&earlier, ""), "nothing to mend");
        assert_eq!(mend(&broken, "torn: ["), mend(&broken, ""));
    }
}
