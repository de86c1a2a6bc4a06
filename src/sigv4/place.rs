//! Region and service of a host of AWS.
//!
//! | host | region | service |
//! |---|---|---|
//! | `dynamodb.us-east-2.amazonaws.com` | us-east-2 | dynamodb |
//! | `bucket.s3.eu-west-1.amazonaws.com` | eu-west-1 | s3 |
//! | `sts.amazonaws.com` | us-east-1 | sts |
//! | `id.execute-api.eu-west-1.amazonaws.com` | eu-west-1 | execute-api |
//! | `id.lambda-url.eu-west-1.on.aws` | eu-west-1 | lambda |
//! | `search-name.eu-west-1.es.amazonaws.com` | eu-west-1 | es |

use super::Scope;
use crate::authority::Host;

/// What the config says of region and service, each of which may be left to the host.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Place {
    pub region: Option<String>,
    pub service: Option<String>,
}

impl Place {
    /// For which region and service requests to this host are signed; `None` where neither host nor config says one of them.
    pub fn scope<'a>(&'a self, host: &'a Host) -> Option<Scope<'a>> {
        let told = match host {
            Host::Name(name) => of_name(name),
            Host::Ip(_) => None,
        };
        let region = self.region.as_deref().or(told.map(|scope| scope.region))?;
        let service = self.service.as_deref().or(told.map(|scope| scope.service))?;
        Some(Scope { region, service })
    }
}

/// The ends of AWS's own names, with the region of services that have one for the whole world.
const DOMAINS: [(&str, &str); 5] = [
    (".amazonaws.com.cn", "cn-north-1"),
    (".amazonaws.com", "us-east-1"),
    (".api.amazonwebservices.com.cn", "cn-north-1"),
    (".api.aws", "us-east-1"),
    (".on.aws", "us-east-1"),
];

/// Services whose name may stand without a region.
const GLOBAL: [&str; 7] = ["budgets", "cloudfront", "iam", "organizations", "route53", "s3", "sts"];

fn of_name(name: &str) -> Option<Scope<'_>> {
    let (rest, home) = DOMAINS.iter().find_map(|(end, home)| Some((name.strip_suffix(end)?, *home)))?;
    let rest = rest.strip_suffix(".vpce").unwrap_or(rest);
    let labels: Vec<&str> = rest.split('.').filter(|label| *label != "dualstack").collect();
    let (last, before) = labels.split_last()?;
    if let Some(region) = last.strip_prefix("s3-").filter(|region| is_region(region)) {
        return Some(Scope { region, service: "s3" });
    }
    if is_region(last) {
        return Some(Scope { region: last, service: signing_name(before.last()?) });
    }
    match before.last() {
        // Its region stands before it.
        Some(region) if is_region(region) => Some(Scope { region, service: signing_name(last) }),
        _ if GLOBAL.contains(last) => Some(Scope { region: home, service: last }),
        _ => None,
    }
}

/// `eu-west-1`, `us-gov-east-1`
fn is_region(label: &str) -> bool {
    let mut parts = label.split('-');
    let number = parts.next_back().is_some_and(|part| part.len() == 1 && part.bytes().all(|b| b.is_ascii_digit()));
    let area = parts.next().is_some_and(|part| part.len() == 2);
    let words: Vec<&str> = parts.collect();
    let word = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase());
    number && area && matches!(words.len(), 1 | 2) && words.iter().all(word)
}

/// Some services sign under another name than that of their hosts.
fn signing_name(label: &str) -> &str {
    let label = label.strip_suffix("-fips").unwrap_or(label);
    match label {
        "s3-accesspoint" | "s3-control" => "s3",
        "lambda-url" => "lambda",
        "email" => "ses",
        "appsync-api" => "appsync",
        "bedrock-runtime" | "bedrock-agent" | "bedrock-agent-runtime" => "bedrock",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(host: &str) -> Option<(String, String)> {
        let host = Host::parse(host).expect("a host");
        Place::default().scope(&host).map(|scope| (scope.region.to_owned(), scope.service.to_owned()))
    }

    #[test]
    fn a_host_of_aws_says_its_region_and_service() {
        for (host, region, service) in [
            ("s3.eu-west-1.amazonaws.com", "eu-west-1", "s3"),
            ("bucket.s3.eu-west-1.amazonaws.com", "eu-west-1", "s3"),
            ("a.dotted.bucket.s3.eu-west-1.amazonaws.com", "eu-west-1", "s3"),
            ("bucket.s3.dualstack.ap-southeast-2.amazonaws.com", "ap-southeast-2", "s3"),
            ("s3-eu-west-1.amazonaws.com", "eu-west-1", "s3"),
            ("bucket.s3.amazonaws.com", "us-east-1", "s3"),
            ("s3-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1", "s3"),
            ("point-123.s3-accesspoint.eu-west-1.amazonaws.com", "eu-west-1", "s3"),
            ("bucket.vpce-0a1b-5c.s3.us-east-1.vpce.amazonaws.com", "us-east-1", "s3"),
            ("s3.cn-north-1.amazonaws.com.cn", "cn-north-1", "s3"),
            ("iam.amazonaws.com.cn", "cn-north-1", "iam"),
            ("sts.amazonaws.com", "us-east-1", "sts"),
            ("sts.eu-central-1.amazonaws.com", "eu-central-1", "sts"),
            ("dynamodb.us-east-2.amazonaws.com", "us-east-2", "dynamodb"),
            ("dynamodb.us-east-2.api.aws", "us-east-2", "dynamodb"),
            ("abc123.execute-api.eu-west-1.amazonaws.com", "eu-west-1", "execute-api"),
            ("abc123.lambda-url.eu-west-1.on.aws", "eu-west-1", "lambda"),
            ("search-logs-x.eu-west-1.es.amazonaws.com", "eu-west-1", "es"),
            ("api.ecr.eu-west-1.amazonaws.com", "eu-west-1", "ecr"),
            ("bedrock-runtime.us-west-2.amazonaws.com", "us-west-2", "bedrock"),
            ("email.us-east-1.amazonaws.com", "us-east-1", "ses"),
        ] {
            assert_eq!(told(host), Some((region.to_owned(), service.to_owned())), "{host}");
        }
    }

    #[test]
    fn other_hosts_say_nothing() {
        for host in [
            "s3.eu-west-1.example.com",
            "eu-west-1.amazonaws.com",
            "something.amazonaws.com",
            "amazonaws.com",
            "sts.amazonaws.com.evil.test",
            "127.0.0.1",
        ] {
            assert_eq!(told(host), None, "{host}");
        }
    }

    #[test]
    fn what_the_config_says_comes_first() {
        let place = Place { region: Some("eu-north-1".to_owned()), service: None };
        let host = Host::parse("s3.eu-west-1.amazonaws.com").expect("a host");
        assert_eq!(place.scope(&host), Some(Scope { region: "eu-north-1", service: "s3" }));
        let host = Host::parse("127.0.0.1").expect("a host");
        assert_eq!(place.scope(&host), None, "the service is missing");
    }
}
