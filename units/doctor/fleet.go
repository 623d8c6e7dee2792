package doctor

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"ephemeral-builder/image/command"
	"ephemeral-builder/units"
)

// renewal is how long before its end a certificate should be renewed.
const renewal = 30 * 24 * time.Hour

// certificate is about the host key's, where the host has one.
func certificate(_ context.Context, s subject) []Finding {
	c, err := units.ReadCertificate(s.keys.Certificate)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	renew := "sign the host's key anew: " + command.Self("fleet:certify") + ", or remove " + s.keys.Certificate
	const why = "who knows the host by its authority refuses it"
	if err != nil {
		return []Finding{fail(err.Error(), why, renew)}
	}
	host, err := publicKey(s.keys.HostKey + ".pub")
	if err == nil && !bytes.Equal(c.Key.Marshal(), host.Marshal()) {
		return []Finding{fail(s.keys.Certificate+" is of another key than the host's", why, renew)}
	}
	if c.ValidBefore == ssh.CertTimeInfinity {
		return []Finding{ok("for %s, without an end", strings.Join(c.ValidPrincipals, ", "))}
	}
	switch end := time.Unix(int64(c.ValidBefore), 0); {
	case time.Now().After(end):
		return []Finding{fail("it has ended on "+end.Format(time.DateOnly), why, renew)}
	case time.Now().Add(renewal).After(end):
		return []Finding{warn("it ends on "+end.Format(time.DateOnly), why+" then", renew)}
	default:
		return []Finding{ok("for %s, until %s", strings.Join(c.ValidPrincipals, ", "), end.Format(time.DateOnly))}
	}
}

// agent asks as a balancer does, where there is something to ask.
func agent(ctx context.Context, s subject) []Finding {
	if s.SSH.Agent == 0 {
		return nil
	}
	address := netip.AddrPortFrom(s.SSH.Local().Addr(), uint16(s.SSH.Agent)).String()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return []Finding{fail("no answer: "+err.Error(), "balancers take the host for dead", "look at: systemctl status "+s.Name+"-agent.socket")}
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	answer, err := bufio.NewReader(conn).ReadString('\n')
	answer = strings.TrimSpace(answer)
	switch {
	case strings.HasPrefix(answer, "ready up "):
		return []Finding{ok("answers balancers: %s", answer)}
	case strings.HasPrefix(answer, "drain up "), strings.HasPrefix(answer, "maint up "):
		return []Finding{warn("the host is drained", "balancers send it nothing new", command.Self("drain")+" -name="+s.Name+" -end, if it shall have jobs again")}
	}
	return []Finding{fail(fmt.Sprintf("answers balancers: %q %v", answer, err), "they send it nothing new", "see the other checks, and: journalctl -t "+s.Name+"-agent")}
}
