package control

import (
	"fmt"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/trust"
)

// Every answer says what is left, each caller of each subscription has buckets of
// its own, an empty one is 429 with Retry-After, and time fills it again.
func TestThrottling(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) {
		c.Throttle = Throttle{Reads: Bucket{40, 0.001}, Writes: Bucket{3, 0.001}, Deletes: Bucket{2, 0.1}}
	})
	left := func(r *reply, name string) int {
		t.Helper()
		n, err := strconv.Atoi(r.header.Get("x-ms-ratelimit-remaining-" + name))
		if err != nil {
			t.Fatalf("%s in %d %v", name, r.status, r.header)
		}
		return n
	}
	r := w.must(200, "GET", subPath, nil)
	if left(r, "subscription-reads") != 39 || left(r, "subscription-global-reads") != 40*sharedTimes-1 {
		t.Errorf("first read: %v", r.header)
	}
	if r = w.must(200, "GET", "/tenants", nil); left(r, "tenant-reads") != 39 || r.header.Get("x-ms-ratelimit-remaining-subscription-reads") != "" {
		t.Errorf("outside a subscription: %v", r.header)
	}
	for i := range 3 {
		if r = w.call("admin", "PUT", groupPath, map[string]any{"location": "local"}); left(r, "subscription-writes") != 2-i {
			t.Errorf("write %d: %v", i, r.header)
		}
	}
	r = w.refused(429, arm.SubscriptionRequestsThrottled, "PUT", groupPath, map[string]any{"location": "local"})
	if left(r, "subscription-writes") != 0 || r.header.Get("Retry-After") == "" {
		t.Errorf("over the limit: %v", r.header)
	}
	object := w.callers["admin"].Object
	want := fmt.Sprintf("Number of 'write' requests for subscription '%s' actor '%s' exceeded. Please try again after '%s' seconds after additional tokens are available. Refer to https://aka.ms/arm-throttling for additional information.",
		subscription, object, r.header.Get("Retry-After"))
	if r.text("error.message") != want {
		t.Errorf("got  %s\nwant %s", r.text("error.message"), want)
	}
	// Others, other classes and other subscriptions are not held up by it. What
	// is not there is nobody's but the caller's own account.
	if r := w.call("stranger", "PUT", groupPath, nil); r.status != 403 || left(r, "subscription-writes") != 2 {
		t.Errorf("another caller: %d %v", r.status, r.header)
	}
	w.must(204, "DELETE", groupPath+"/providers/A.B/c/d", nil)
	second := "/subscriptions/" + newUID()
	w.must(201, "PUT", second, map[string]any{"displayName": "second"})
	w.must(201, "PUT", second+"/resourceGroups/rg", map[string]any{"location": "local"})
	if r = w.call("admin", "GET", "/subscriptions/"+newUID(), nil); r.status != 404 || left(r, "tenant-reads") != 38 {
		t.Errorf("a made-up subscription: %d %v", r.status, r.header)
	}
	w.must(204, "DELETE", groupPath+"/providers/A.B/c/d", nil)
	r = w.refused(429, arm.SubscriptionRequestsThrottled, "DELETE", groupPath, nil)
	if r.header.Get("Retry-After") != "10" {
		t.Errorf("Retry-After %q, a token takes 10 s", r.header.Get("Retry-After"))
	}
	w.advance(11 * time.Second)
	w.must(202, "DELETE", groupPath, nil)
}

// Deletes are held to the caller's own bucket: others' requests cannot keep
// anybody from taking access away.
func TestOthersDoNotThrottleADelete(t *testing.T) {
	t.Parallel()
	m := newMeters(Throttle{Writes: Bucket{1, 1}, Deletes: Bucket{1, 1}})
	w := &world{t: t}
	k := &call{Control: &Control{Config: Config{Now: w.now, Tenant: tenant}, meters: m}}
	k.subscription.Revision, k.subscription.Value.ID, k.id = 1, subPath, arm.ID{Subscription: subscription}
	try := func(who, method string) error {
		k.caller, k.request = trust.Caller{Principal: trust.Principal{Object: who}}, &http.Request{Method: method}
		return k.throttle(http.Header{})
	}
	for i := range sharedTimes + 10 {
		err, gone := try(strconv.Itoa(i), "PUT"), try(strconv.Itoa(i), "DELETE")
		if (err != nil) != (i >= sharedTimes) || gone != nil {
			t.Errorf("caller %d: PUT %v, DELETE %v", i, err, gone)
		}
	}
}

// Full buckets are forgotten, and only those.
func TestMetersForgetFullBuckets(t *testing.T) {
	t.Parallel()
	m := newMeters(Throttle{Reads: Bucket{2, 1}})
	now := time.Now()
	for i := range maxMeters {
		m.take(meterKey{caller: strconv.Itoa(i)}, now)
	}
	later := now.Add(2 * time.Second)
	m.take(meterKey{caller: "0"}, later)
	if left, _ := m.take(meterKey{caller: "new"}, later); left != 1 || len(m.all) != 2 {
		t.Errorf("%d left, %d buckets", left, len(m.all))
	}
	if left, _ := m.take(meterKey{caller: "0"}, later); left != 0 {
		t.Errorf("%d left: a used bucket was forgotten", left)
	}
}
