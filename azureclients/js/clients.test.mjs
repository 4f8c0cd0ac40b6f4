// Azure's JavaScript clients against a real server, changed in nothing but the
// endpoint. javascript_test.go starts the server, makes the scene, and says by
// the environment where it is.
import assert from "node:assert/strict";
import { test } from "node:test";

import { ContainerServiceClient } from "@azure/arm-containerservice";
import { FeatureClient } from "@azure/arm-features";
import { ClientSecretCredential, DefaultAzureCredential, ManagedIdentityCredential, WorkloadIdentityCredential } from "@azure/identity";

const { SERVER, SUBSCRIPTION, GROUP, CLUSTER, SOURCE, AZURE_TENANT_ID, AZURE_CLIENT_ID, AZURE_CLIENT_SECRET } = process.env;
const { WORKLOAD_CLIENT_ID, WORKLOAD_TOKEN_FILE, MANAGED_ENDPOINT, MANAGED_HEADER } = process.env;
const scope = SERVER + "/.default";
const where = { authorityHost: SERVER, disableInstanceDiscovery: true };
const ml = "Microsoft.MachineLearningServices/workspaces/";

const administrator = new ClientSecretCredential(AZURE_TENANT_ID, AZURE_CLIENT_ID, AZURE_CLIENT_SECRET, where);
const aksOf = (credential) =>
  new ContainerServiceClient(credential, SUBSCRIPTION, { endpoint: SERVER, credentials: { scopes: [scope] } });

async function all(pages) {
  const out = [];
  for await (const one of pages) out.push(one);
  return out;
}

const claims = (token) => JSON.parse(Buffer.from(token.split(".")[1], "base64url"));

test("a binding: create, read, list, update, delete", async () => {
  const { trustedAccessRoles, trustedAccessRoleBindings: bindings } = aksOf(administrator);
  const roles = await all(trustedAccessRoles.list("westeurope"));
  assert.ok(roles.some((r) => r.sourceResourceType + "/" + r.name === ml + "mlworkload" && r.rules.length > 0));

  await assert.rejects(bindings.get(GROUP, CLUSTER, "js"), (e) => e.statusCode === 404 && e.code === "ResourceNotFound");
  assert.deepEqual(await all(bindings.list(GROUP, CLUSTER)), []);

  const want = [ml + "inference-v1", ml + "mlworkload"]; // the order is kept
  let made = await bindings.createOrUpdate(GROUP, CLUSTER, "js", { sourceResourceId: SOURCE, roles: want });
  assert.equal(made.provisioningState, "Succeeded");
  assert.equal(made.sourceResourceId, SOURCE);
  assert.deepEqual(made.roles, want);
  assert.equal(made.type, "Microsoft.ContainerService/managedClusters/trustedAccessRoleBindings");

  made = await bindings.createOrUpdate(GROUP, CLUSTER, "js", { ...made, roles: [ml + "mlworkload"] });
  assert.deepEqual(made.roles, [ml + "mlworkload"]);
  assert.deepEqual((await all(bindings.list(GROUP, CLUSTER))).map((b) => b.name), ["js"]);

  await assert.rejects(bindings.createOrUpdate(GROUP, CLUSTER, "js", { sourceResourceId: SOURCE, roles: [ml + "none"] }), (e) => e.statusCode === 400 && e.code === "InvalidParameter");
  await bindings.delete(GROUP, CLUSTER, "js");
  await bindings.delete(GROUP, CLUSTER, "js"); // what is gone can be deleted
  await assert.rejects(bindings.get(GROUP, CLUSTER, "js"), (e) => e.statusCode === 404);
});

test("clusters: read, list, credentials, stop and start", async () => {
  const { managedClusters } = aksOf(administrator);
  const cluster = await managedClusters.get(GROUP, CLUSTER);
  assert.equal(cluster.location, "westeurope");
  assert.ok((await all(managedClusters.listByResourceGroup(GROUP))).some((c) => c.id === cluster.id));
  const { kubeconfigs } = await managedClusters.listClusterUserCredentials(GROUP, CLUSTER);
  assert.match(Buffer.from(kubeconfigs[0].value).toString(), new RegExp(SERVER + "/clusters/"));
  await managedClusters.stop(GROUP, CLUSTER);
  assert.equal((await managedClusters.get(GROUP, CLUSTER)).powerState.code, "Stopped");
  await managedClusters.start(GROUP, CLUSTER);
  assert.equal((await managedClusters.get(GROUP, CLUSTER)).powerState.code, "Running");
});

test("features: register, read, list", async () => {
  const client = new FeatureClient(administrator, SUBSCRIPTION, { endpoint: SERVER });
  const [namespace, name] = ["Microsoft.ContainerService", "TrustedAccessPreview"];
  const registered = await client.features.register(namespace, name);
  assert.equal(registered.name, namespace + "/" + name);
  assert.match(registered.properties.state, /^Regist(ering|ered)$/);
  assert.match((await client.features.get(namespace, name)).properties.state, /^Regist(ering|ered)$/);
  assert.ok((await all(client.features.list(namespace))).length > 0);
  assert.ok((await all(client.features.listAll())).length > 0);
});

test("credentials: by default from the environment, and by a token of another issuer", async () => {
  const found = await new DefaultAzureCredential(where).getToken(scope);
  assert.equal(claims(found.token).appid, AZURE_CLIENT_ID);
  const workload = new WorkloadIdentityCredential({ ...where, tenantId: AZURE_TENANT_ID, clientId: WORKLOAD_CLIENT_ID, tokenFilePath: WORKLOAD_TOKEN_FILE });
  const { token, expiresOnTimestamp } = await workload.getToken(scope);
  assert.equal(claims(token).xms_mirid.toLowerCase(), SOURCE.toLowerCase());
  assert.ok(expiresOnTimestamp > Date.now());
  // It is a service without rights on the control API, and is told so.
  await assert.rejects(aksOf(workload).managedClusters.get(GROUP, CLUSTER), (e) => e.statusCode === 403 && e.code === "AuthorizationFailed");

  const wrong = new ClientSecretCredential(AZURE_TENANT_ID, AZURE_CLIENT_ID, "wrong", where);
  await assert.rejects(wrong.getToken(scope), (e) => /invalid_client.*AADSTS7000215/.test(e.message));
});

test("managed identity, by the endpoint of App Service", async () => {
  process.env.IDENTITY_ENDPOINT = MANAGED_ENDPOINT;
  process.env.IDENTITY_HEADER = MANAGED_HEADER;
  const { token } = await new ManagedIdentityCredential().getToken(scope);
  assert.equal(claims(token).xms_mirid.toLowerCase(), SOURCE.toLowerCase());
});
