// Package operator turns TrainingJobs into batch/v1 Jobs in the namespaces that
// the cluster's owner lets it into, and says what becomes of them: why a job
// waits, on which nodes it runs, how it ended.
//
// It owns what runs for a job and the TrainingJob's status. Whoever asks for jobs
// is package gateway's business; logs are too.
package operator
