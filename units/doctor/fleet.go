package doctor

import (
	"bufio"
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
	host, _ := publicKey(s.keys.HostKey + ".pub") // see the check of keys
	switch fault, refused := units.JudgeCertificate(c, host, time.Now()); {
	case refused:
		return []Finding{fail("it "+fault, why, renew)}
	case fault != "":
		return []Finding{warn("it "+fault, why+" then", renew)}
	}
	end := "without an end"
	if c.ValidBefore != ssh.CertTimeInfinity {
		end = "until " + time.Unix(int64(c.ValidBefore), 0).UTC().Format(time.DateOnly)
	}
	return []Finding{ok("for %s, %s", strings.Join(c.ValidPrincipals, ", "), end)}
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
	case units.OnTrial(s.Name):
		return []Finding{warn("an update tries a new image", "balancers send nothing new meanwhile", "look at: journalctl -u "+s.Name+"-update")}
	case strings.HasPrefix(answer, "ready up "):
		return []Finding{ok("answers balancers: %s", answer)}
	case strings.HasPrefix(answer, "drain up "), strings.HasPrefix(answer, "maint up "):
		return []Finding{warn("the host is drained", "balancers send it nothing new", command.Self("drain")+" -name="+s.Name+" -end, if it shall have jobs again")}
	}
	return []Finding{fail(fmt.Sprintf("answers balancers: %q %v", answer, err), "they send it nothing new", "see the other checks, and: journalctl -t "+s.Name+"-agent")}
}
