// Package simulate is a small model of many hosts that serve the jobs of a CI: when jobs come, how
// long they wait for a slot, and how busy the slots are. It is a discrete-event simulation, without
// a network, a clock or anything else from outside: the same seed gives the same result.
//
// A job is one connection, and takes one slot of one host from the moment that it is given to the
// host until nothing is left of its container: the start, the job, and the teardown. What a host
// takes for that, [Host], comes from measurements of one host. When jobs come and how long they
// take, [Workload], has the shape of published figures; what is theirs and what is assumed is said
// there.
//
// What it leaves out: jobs do not slow each other down on a host, the stages of a pipeline do not
// wait for each other, nobody gives up waiting, no job is lost or repeated, no host fails, and GitLab
// answers at once.
package simulate
