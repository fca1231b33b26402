//! A real server, as far as the tests have one.

use super::*;

#[tokio::test]
#[ignore = "needs MongoDB: make e2e"]
async fn a_server_says_hello() {
    let uri = std::env::var("OPLOG_RELAY_MONGODB");
    let uri = uri.unwrap_or_else(|_| "mongodb://127.0.0.1:27117/?directConnection=true".to_owned());
    let client = connect(&Secret::new(uri), "core-live", |_| {})
        .await
        .unwrap();
    let hello = hello(&client).await.unwrap();
    assert!(hello.max_wire_version >= 9, "{hello:?}");
    assert!(hello.is_writable_primary && !hello.is_mongos, "{hello:?}");
    assert!(hello.max_bson_object_size.is_some(), "{hello:?}");
    let error = client
        .database("admin")
        .run_command(mongodb::bson::doc! { "noSuch": 1 })
        .await;
    assert_eq!(error_code(&error.unwrap_err()), Some(59));
}
