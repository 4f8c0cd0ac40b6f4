package control

import (
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/trust"
)

// Throttle are the limits of requests, per process as ARM's are per instance:
// for each caller in each subscription, and sharedTimes that for all callers
// of a subscription together.
type Throttle struct {
	Reads   Bucket `json:"reads"`
	Writes  Bucket `json:"writes"`
	Deletes Bucket `json:"deletes"`
}

// Bucket is a token bucket: Burst requests at once, and PerSecond from then on.
type Bucket struct {
	Burst     int     `json:"burst"`
	PerSecond float64 `json:"perSecond"`
}

// The default limits stop a program that runs wild before it hurts others.
// Azure's own are 250 and 25/s for reads, 200 and 10/s for writes and deletes.
var defaultThrottle = Throttle{
	Reads:   Bucket{20000, 2000},
	Writes:  Bucket{10000, 1000},
	Deletes: Bucket{10000, 1000},
}

// sharedTimes is how many times a caller's limit a subscription has, as in Azure.
const sharedTimes = 15

func (b Bucket) or(other Bucket) Bucket {
	if b.Burst <= 0 || b.PerSecond <= 0 {
		return other
	}
	return b
}

// class is what ARM counts apart.
type class uint8

const (
	classRead class = iota
	classWrite
	classDelete
	classPassword // what a change of one's password asks; ARM has no such thing
)

var classNames = [...]string{"read", "write", "delete"}

func classOf(method string) class {
	switch method {
	case http.MethodGet, http.MethodHead:
		return classRead
	case http.MethodDelete:
		return classDelete
	}
	return classWrite
}

// meterKey is what a bucket belongs to. A subscription of "" is what lies in
// none; a caller of "" stands for all of them.
type meterKey struct {
	subscription, caller string
	class                class
}

// meters holds the buckets in use. A full one is not kept: it says nothing.
type meters struct {
	limits [4]Bucket

	mu  sync.Mutex // guards all
	all map[meterKey]*rate.Limiter
}

// maxMeters is when full buckets are looked for and dropped. Others cannot be
// many: each was used within the time that it takes to fill.
const maxMeters = 4096

func newMeters(t Throttle) *meters {
	return &meters{all: map[meterKey]*rate.Limiter{}, limits: [4]Bucket{
		t.Reads.or(defaultThrottle.Reads), t.Writes.or(defaultThrottle.Writes), t.Deletes.or(defaultThrottle.Deletes), passwordTries,
	}}
}

// take takes one token. left is what remains; wait is 0, or, when there was no
// token, how long until there is one.
func (m *meters) take(k meterKey, now time.Time) (left int, wait time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.all[k]
	if l == nil {
		if len(m.all) >= maxMeters {
			m.sweep(now)
		}
		b := m.limits[k.class]
		if k.caller == "" {
			b.Burst, b.PerSecond = b.Burst*sharedTimes, b.PerSecond*sharedTimes
		}
		l = rate.NewLimiter(rate.Limit(b.PerSecond), b.Burst)
		m.all[k] = l
	}
	if l.AllowN(now, 1) {
		return int(l.TokensAt(now)), 0
	}
	short := (1 - l.TokensAt(now)) / float64(l.Limit())
	return 0, max(time.Millisecond, time.Duration(short*float64(time.Second)))
}

func (m *meters) sweep(now time.Time) {
	for k, l := range m.all {
		if l.TokensAt(now) >= float64(l.Burst()) {
			delete(m.all, k)
		}
	}
}

// throttle counts the request, says in the answer what is left, and refuses it
// when nothing is. What the path names counts only if it is there: made-up
// subscriptions are the caller's own account. A DELETE is held to its caller's
// own bucket alone: nobody's requests stand between others and taking access
// away.
func (k *call) throttle(h http.Header) error {
	key := meterKey{caller: k.caller.Object, class: classOf(k.request.Method)}
	scope := "tenant"
	if k.subscription.Revision != 0 {
		scope, key.subscription = "subscription", trust.Fold(k.id.Subscription)
	}
	now := k.Now()
	left, wait := k.meters.take(key, now)
	name := classNames[key.class]
	h.Set("x-ms-ratelimit-remaining-"+scope+"-"+name+"s", strconv.Itoa(left))
	if scope == "subscription" && key.class != classDelete && wait == 0 {
		key.caller = ""
		left, wait = k.meters.take(key, now)
		h.Set("x-ms-ratelimit-remaining-subscription-global-"+name+"s", strconv.Itoa(left))
	}
	if wait == 0 {
		return nil
	}
	seconds := int(math.Ceil(wait.Seconds()))
	code, what := arm.TenantRequestsThrottled, "tenant '"+k.Tenant+"'"
	if scope == "subscription" {
		code, what = arm.SubscriptionRequestsThrottled, "subscription '"+nameOf(k.subscription.Value.ID)+"'"
	}
	return &throttled{after: wait, cause: arm.Errorf(trust.Throttled, code,
		"Number of '%s' requests for %s actor '%s' exceeded. Please try again after '%d' seconds after additional tokens are available. Refer to https://aka.ms/arm-throttling for additional information.",
		name, what, k.caller.Object, seconds)}
}

// throttled is a 429, which says when to come back.
type throttled struct {
	cause *trust.Error
	after time.Duration
}

func (e *throttled) Error() string { return e.cause.Error() }
func (e *throttled) Unwrap() error { return e.cause }
