package spec

import "testing"

// A spec that was made without a file has problems without a line.
func TestValidate(t *testing.T) {
	want := `concurrency is 0: use 1 to 1000
home "": use memory or disk
limits.lifetime is 0s: use whole seconds above zero
limits.start_timeout is 0s: use whole seconds above zero
name "": use lower-case letters, digits and single hyphens, a letter first and no hyphen last
network "": use private, host or none
packages is empty: every container runs sshd: add openssh-server
root "": use read-only or sudo
ssh.listen "invalid AddrPort": not an IP address with a port from 1 to 65535: use 127.0.0.1:24 or [::1]:24
start "": use on-demand or warm
suite "": use a Debian suite or codename, such as stable or bookworm
user.gid is 0: use 1000 to 59999, the range Debian keeps for ordinary users
user.uid is 0: use 1000 to 59999, the range Debian keeps for ordinary users`
	if err := (Spec{}).Validate(); err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}

	s := Default()
	s.Root = RootSudo
	want = `packages: root = "sudo" needs it: add sudo`
	if err := s.Validate(); err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}
