// Command helper stands in for gitlab-runner inside a container, where that does what a job's
// shell can't: caches and artifacts. It takes the arguments that the runner's own scripts give to
// it, see shells/abstract.go there.
package main

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"mime/multipart"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "FATAL:", err)
		os.Exit(1)
	}
}

// list is a flag that may be given more than once.
type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("usage: gitlab-runner VERB OPTIONS")
	}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	var paths list
	flags.Var(&paths, "path", "")
	file, url, token := flags.String("file", "", ""), flags.String("url", "", ""), flags.String("token", "", "")
	id := flags.Int("id", 0, "")
	flags.String("artifact-format", "zip", "")
	flags.String("artifact-type", "archive", "")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	artifacts := fmt.Sprintf("%s/api/v4/jobs/%d/artifacts", strings.TrimSuffix(*url, "/"), *id)
	switch args[0] {
	case "--version":
		fmt.Println("Version:      stand-in of the tests")
		return nil
	case "cache-archiver":
		var archive bytes.Buffer
		if err := pack(&archive, paths); err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(*file), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(*file+".partial", archive.Bytes(), 0o600); err != nil {
			_ = os.Remove(*file + ".partial")
			return err
		}
		return os.Rename(*file+".partial", *file)
	case "cache-extractor":
		text, err := os.ReadFile(*file)
		if errors.Is(err, fs.ErrNotExist) {
			fmt.Println("No cache found")
			return nil
		} else if err != nil {
			return err
		}
		return unpack(text)
	case "artifacts-uploader":
		var archive, body bytes.Buffer
		if err := pack(&archive, paths); err != nil {
			return err
		}
		form := multipart.NewWriter(&body)
		part, err := form.CreateFormFile("file", "artifacts.zip")
		if err != nil {
			return err
		}
		if _, err := part.Write(archive.Bytes()); err != nil {
			return err
		}
		if err := form.Close(); err != nil {
			return err
		}
		_, err = call(ctx, http.MethodPost, artifacts+"?artifact_format=zip&artifact_type=archive", form.FormDataContentType(), *token, &body, http.StatusCreated)
		return err
	case "artifacts-downloader":
		text, err := call(ctx, http.MethodGet, artifacts, "", *token, nil, http.StatusOK)
		if err != nil {
			return err
		}
		return unpack(text)
	}
	return fmt.Errorf("%s is none of its verbs", args[0])
}

func call(ctx context.Context, method, url, kind, token string, body io.Reader, want int) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return nil, err
	}
	request.Header.Set("JOB-TOKEN", token)
	if kind != "" {
		request.Header.Set("Content-Type", kind)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != want {
		err = fmt.Errorf("%s %s: %s", method, url, answer.Status)
	}
	return text, err
}

// pack writes paths of the current directory, folders with all that is in them.
func pack(w io.Writer, paths []string) error {
	archive := zip.NewWriter(w)
	for _, path := range paths {
		err := filepath.WalkDir(filepath.Clean(path), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			part, err := archive.Create(filepath.ToSlash(path))
			if err != nil {
				return err
			}
			_, err = part.Write(text)
			return err
		})
		if errors.Is(err, fs.ErrNotExist) {
			fmt.Fprintf(os.Stderr, "WARNING: %s: no matching files\n", path)
		} else if err != nil {
			return err
		}
	}
	return archive.Close()
}

// unpack writes what an archive has below the current directory.
func unpack(text []byte) error {
	archive, err := zip.NewReader(bytes.NewReader(text), int64(len(text)))
	if err != nil {
		return err
	}
	for _, f := range archive.File {
		if !filepath.IsLocal(f.Name) {
			return fmt.Errorf("%s leads out of the project", f.Name)
		}
		if err := os.MkdirAll(filepath.Dir(f.Name), 0o755); err != nil {
			return err
		}
		part, err := f.Open()
		if err != nil {
			return err
		}
		contents, err := io.ReadAll(part)
		if err != nil {
			return err
		}
		if err := os.WriteFile(f.Name, contents, 0o644); err != nil {
			return err
		}
	}
	return nil
}
