//! `grpc`: the health protocol, version 1, in plain text: SERVING is a success, everything else is not.

use std::time::Duration;

use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::GRPCAction;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::target::{Address, Target};
use super::{VERSION, go};
use crate::plan::action::Answer;

const PATH: &str = "/grpc.health.v1.Health/Check";
/// `HealthCheckResponse.ServingStatus`, by number.
const STATUS: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
const SERVING: i32 = 1;

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Asks once.
pub async fn probe(target: &Target<'_>, action: &GRPCAction, within: Duration) -> Answer {
    let address = match target.address(None, &IntOrString::Int(action.port)) {
        Ok(address) => address,
        Err(e) => return Answer::Errored(e.into()),
    };
    let shown = address.shown();
    match tokio::time::timeout(within, check(address, action.service.clone().unwrap_or_default())).await {
        Ok(Ok(SERVING)) => Answer::Passed,
        Ok(Ok(status)) => {
            let word = usize::try_from(status).ok().and_then(|s| STATUS.get(s)).map_or_else(|| status.to_string(), |s| (*s).to_owned());
            Answer::Failed(format!("service unhealthy (responded with \"{word}\")").into())
        }
        Ok(Err(Unasked::Dial(e))) => Answer::Failed(format!("error: failed to connect service \"{shown}\": {e}").into()),
        Ok(Err(Unasked::Said(status))) => Answer::Failed(refused(&status).into()),
        Err(_) => Answer::Failed(format!("timeout: health rpc did not complete within {}", go(within)).into()),
    }
}

enum Unasked {
    Dial(String),
    Said(Status),
}

async fn check(address: Address<'_>, service: String) -> Result<i32, Unasked> {
    let stream = address.dial().await.map_err(|e| Unasked::Dial(address.refused(&e)))?;
    let fail = |e: &dyn std::error::Error| Unasked::Dial(crate::runtime::error::chain(e).to_string());
    let agent = format!("kube-probe/{VERSION}");
    let endpoint = Endpoint::from_shared(format!("http://{}", address.shown())).and_then(|e| e.user_agent(agent)).map_err(|e| fail(&e))?;
    let mut stream = Some(TokioIo::new(stream));
    let dial =
        tower::service_fn(move |_| std::future::ready(stream.take().ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected))));
    let channel = endpoint.connect_with_connector(dial).await.map_err(|e| fail(&e))?;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|e| fail(&e))?;
    let codec: ProstCodec<HealthCheckRequest, HealthCheckResponse> = ProstCodec::default();
    let reply = client.unary(Request::new(HealthCheckRequest { service }), PathAndQuery::from_static(PATH), codec).await;
    Ok(reply.map_err(Unasked::Said)?.into_inner().status)
}

fn refused(status: &Status) -> String {
    match status.code() {
        Code::Unimplemented => {
            format!("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}", status.message())
        }
        code => format!("error: health rpc probe failed: rpc error: code = {code:?} desc = {}", status.message()),
    }
}
