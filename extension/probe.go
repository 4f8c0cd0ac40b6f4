package extension

import "strings"

// environmentProbe is the checker of the secure environment, in the cluster.
func environmentProbe() Type {
	t := Type{
		Name: "Sallyport.EnvironmentProbe", Version: "1.0.0", Trains: []string{"stable"}, ReleaseNamespace: "sallyport-probe", NamespaceScope: true,
		Settings: []Setting{
			{Key: "interval", Kind: Seconds, Default: "300"},
			{Key: "targets.*", Kind: DNSName},
			{Key: "proxy", Kind: ProxyURL, Protected: true},
			{Key: "cluster_name", Filled: true},
		},
		fill: func(c Cluster) map[string]string { return map[string]string{"cluster_name": c.ID} },
	}
	t.check = func(v Values) ([]Warning, error) {
		n := 0
		for key := range v.Plain {
			if strings.HasPrefix(key, "targets.") {
				n++
			}
		}
		if n == 0 {
			e := bad(plainAt, "there is nothing to look at: at least one setting targets.NAME names a host")
			e.Hint = "--config targets.store=mystore.blob.core.windows.net"
			return nil, e
		}
		if n > maxTargets {
			return nil, bad(plainAt, "there are %d targets, the limit is %d", n, maxTargets)
		}
		return nil, nil
	}
	return t
}

// maxTargets is how many names package probe looks at.
const maxTargets = 64
