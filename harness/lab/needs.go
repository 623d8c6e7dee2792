package lab

import "ephemeral-builder/image/prereq"

// Needs are the programs that a lab of this kind is made with.
func Needs(kind Kind) []prereq.Need {
	if kind == VM {
		return []prereq.Need{
			{Program: "qemu-system-x86_64", Package: "qemu-system-x86"},
			{Program: "mkfs.ext4", Package: "e2fsprogs"},
			{Program: "debugfs", Package: "e2fsprogs"},
			{Program: "unshare", Package: "util-linux"},
		}
	}
	return []prereq.Need{
		{Program: "systemd-nspawn", Package: "systemd-container"},
		// The relay, systemd-socket-proxyd, is in no PATH, but in the package of this one.
		{Program: "systemd-run", Package: "systemd"},
		{Program: "mount", Package: "mount"},
	}
}

// JoinNeeds are the programs that labs are joined with.
func JoinNeeds() []prereq.Need {
	return []prereq.Need{
		{Program: "ip", Package: "iproute2"},
		{Program: "nsenter", Package: "util-linux"},
	}
}
