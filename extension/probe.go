package extension

// environmentProbe is the checker of the secure environment, in the cluster.
func environmentProbe() Type {
	return Type{
		Name: "Sallyport.EnvironmentProbe", Version: "1.0.0", Trains: []string{"stable"}, ReleaseNamespace: "sallyport-probe", NamespaceScope: true,
		Settings: []Setting{
			{Key: "interval", Kind: Seconds, Default: "300"},
			{Key: "targets.*", Kind: DNSName},
			{Key: "proxy", Protected: true},
			{Key: "cluster_name", Filled: true},
		},
		fill: func(c Cluster) map[string]string { return map[string]string{"cluster_name": c.ID} },
	}
}
