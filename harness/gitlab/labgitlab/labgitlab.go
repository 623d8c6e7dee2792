// Command labgitlab is a GitLab for a lab, and the means to give it jobs.
//
//	labgitlab serve HOST:PORT         until it is told to end
//	labgitlab [-url URL] add          a job, of the recipe on standard input, for who asks for one
//	labgitlab [-url URL] take         likewise, for who asked: both print it as JSON
//	labgitlab [-url URL] show ID      its log, and how it ended
//	labgitlab [-url URL] cancel ID    or with "canceling" for ID's script alone
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"ephemeral-builder/harness/gitlab/coordinator"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	url := flag.String("url", "http://192.0.2.1:8080", "of the GitLab")
	flag.Parse()
	argument, how := flag.Arg(1), flag.Arg(2)
	switch flag.Arg(0) {
	case "serve":
		return serve(ctx, argument)
	case "add":
		return call(ctx, http.MethodPost, *url+"/lab/jobs", os.Stdin, os.Stdout)
	case "take":
		return call(ctx, http.MethodPost, *url+"/lab/jobs?taken=yes", os.Stdin, os.Stdout)
	case "show":
		var text strings.Builder
		if err := call(ctx, http.MethodGet, *url+"/lab/jobs/"+argument, nil, &text); err != nil {
			return err
		}
		var record coordinator.Record
		if err := json.Unmarshal([]byte(text.String()), &record); err != nil {
			return err
		}
		fmt.Printf("%s\n%s %s %d\n", strings.TrimSuffix(record.Trace, "\n"), record.State, record.Reason, record.ExitCode)
		return nil
	case "cancel":
		if how == "" {
			how = "canceled"
		}
		return call(ctx, http.MethodPost, *url+"/lab/jobs/"+argument+"/cancel?how="+how, nil, io.Discard)
	}
	return errors.New("usage: labgitlab serve|add|take|show|cancel")
}

func serve(ctx context.Context, address string) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	server := http.Server{Handler: new(coordinator.Server).Handler(), ReadHeaderTimeout: time.Minute}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func call(ctx context.Context, method, url string, body io.Reader, to io.Writer) error {
	request, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode >= 300 {
		text, _ := io.ReadAll(answer.Body)
		return fmt.Errorf("%s: %s: %s", url, answer.Status, text)
	}
	_, err = io.Copy(to, answer.Body)
	return err
}
