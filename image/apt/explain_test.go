package apt

import (
	"testing"
)

func TestExplainUpdate(t *testing.T) {
	p := &private{Dir: "/lists", Options: Options{Sources: []Source{
		{URI: "http://host/debian/", Suite: "stable"},
		{URI: "http://host/debian", Suite: "stable-updates"},
		{URI: "file:///srv/own", Suite: "main", Key: []byte{1}},
	}}}
	for _, test := range []struct{ stderr, want string }{
		{"W: GPG error: http://host/debian stable-updates InRelease: The following signatures couldn't be verified because the public key is not available: NO_PUBKEY FC1B569FA2D30378\n" +
			"E: The repository 'http://host/debian stable-updates InRelease' is not signed.\n",
			"suite stable-updates of http://host/debian is not signed by Debian: name its key in the spec, use another mirror, or update debian-archive-keyring"},
		{"W: OpenPGP signature verification failed: file:/srv/own main InRelease: Sub-process /usr/bin/sqv returned an error code (1), error message is: Missing key\n",
			"suite main of file:///srv/own is not signed with its key: check the key in the spec"},
		{"E: Release file for http://host/debian/dists/stable/InRelease is expired (invalid since 1h 0min 1s). Updates for this repository will not be applied.\n",
			`suite stable of http://host/debian/ expired 1h 0min 1s ago: use a mirror that is up to date, or for an archive of the past put Acquire::Check-Valid-Until "false"; into apt.conf`},
		{"E: Release file for file:/srv/own/dists/main/InRelease is not valid yet (invalid for another 19d 23h 59min 49s). Updates for this repository will not be applied.\n",
			"suite main of file:///srv/own is from the future: set the clock of this machine"},
		{"E: Failed to fetch http://host/debian/dists/stable/main/binary-amd64/Packages.xz  Hash Sum mismatch\n   Hashes of expected file:\n    - Filesize:2790 [weak]\n" +
			"E: Some index files failed to download. They have been ignored, or old ones used instead.\n",
			"http://host/debian/ has an index that its Release file does not vouch for, as when a mirror is being updated: try again in some minutes"},
		{"E: The repository 'http://host/debian stable-updates Release' does not have a Release file.\n",
			`suite "stable-updates" is not on http://host/debian: use one of the folders below its dists/, such as stable or trixie`},
		{"E: Failed to fetch http://host/debian/dists/stable/InRelease  Could not connect to host:80 (192.0.2.1). - connect (111: Connection refused)\n" +
			"E: Some index files failed to download. They have been ignored, or old ones used instead.\n",
			"http://host/debian/ does not answer: check the network, or use another mirror: http://host/debian/dists/stable/InRelease Could not connect to host:80 (192.0.2.1). - connect (111: Connection refused)"},
		{"E: Failed to fetch http://host/debian/dists/stable/main/binary-amd64/Packages  Error writing to file - write (28: No space left on device) [IP: 192.0.2.1 80]\n",
			"the disk of /lists is full: free some space, or set XDG_CACHE_HOME to a folder on another disk"},
		{"W: a warning\nE: The list of sources could not be read.\nE: More\n", "apt-get: The list of sources could not be read."},
		{"out of words", "apt-get: out of words"},
	} {
		if got := p.explainUpdate(test.stderr).Error(); got != test.want {
			t.Errorf("got  %s\nwant %s", got, test.want)
		}
	}
}

func TestExplainSolve(t *testing.T) {
	const (
		head  = "the packages can't be installed together: leave some out, or use another suite:\n    "
		unmet = "The following information may help to resolve the situation:\n\nThe following packages have unmet dependencies:\n"
		held  = "E: Unable to correct problems, you have held broken packages.\n"
	)
	for _, test := range []struct{ name, stdout, stderr, want string }{
		{"apt 2", unmet + " c2 : Conflicts: doc but 1 is to be installed\n", held, head + "c2 : Conflicts: doc but 1 is to be installed"},
		{"many", unmet + " a : 1\n b : 2\n c : 3\n d : 4\n e : 5\n f : 6\n g : 7\n h : 8\n", held,
			head + "a : 1\n    b : 2\n    c : 3\n    d : 4\n    e : 5\n    f : 6\n    and 2 more"},
		{"apt 3", unmet + " c2 : Conflicts: doc but 1 is to be installed\n",
			held + "E: The following information from --solver 3.0 may provide additional context:\n   Unable to satisfy dependencies. Reached two conflicting assignments:\n" +
				"   1. doc:amd64=1 is selected for install\n   2. doc:amd64=1 is not selected for install because:\n      1. c1:amd64=1 is selected for install\n      2. c1:amd64 Depends c2\n      3. c2:amd64 Conflicts doc\n",
			head + "1. doc:amd64=1 is selected for install\n    2. doc:amd64=1 is not selected for install because:\n    1. c1:amd64=1 is selected for install\n    2. c1:amd64 Depends c2\n    3. c2:amd64 Conflicts doc"},
		{"another error", "", "E: dpkg was interrupted\n", "apt-get: dpkg was interrupted"},
	} {
		if got := explainSolve(test.stdout, test.stderr).Error(); got != test.want {
			t.Errorf("%s: got  %s\nwant %s", test.name, got, test.want)
		}
	}
}
