// net/http: its default transport obeys HTTP_PROXY and HTTPS_PROXY. The steps are those of plan.py: lines of JSON in, lines of JSON out.
package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strings"
)

type place struct {
	Base  string
	Proxy *string
	Own   string
}

type step struct {
	Step     string
	Body     json.RawMessage
	Pieces   int
	Requests int
}

// said is what a step came to.
type said map[string]any

type client struct {
	place place
	http  *http.Client
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	lines.Scan()
	c := &client{}
	must(json.Unmarshal(lines.Bytes(), &c.place))
	c.fresh()
	say(said{"version": strings.TrimPrefix(runtime.Version(), "go")})
	for lines.Scan() {
		var s step
		must(json.Unmarshal(lines.Bytes(), &s))
		result, err := c.take(s)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			result = said{"error": kind(err)}
		}
		say(result)
	}
}

func (c *client) take(s step) (said, error) {
	switch s.Step {
	case "get":
		return told(c.request("GET", "/get?q=a%20b&list=1&list=2", nil, nil))
	case "json":
		return told(c.request("POST", "/json", http.Header{"Content-Type": {"application/json"}}, bytes.NewReader(s.Body)))
	case "upload":
		return told(c.request("POST", "/upload", http.Header{"Content-Type": {"text/plain"}}, upload(s.Pieces)))
	case "large":
		answer, err := c.request("GET", "/large", nil, nil)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(answer.body)
		return said{"bytes": len(answer.body), "sha256": hex.EncodeToString(sum[:])}, nil
	case "events":
		return c.events()
	case "head":
		return told(c.request("HEAD", "/sized", nil, nil))
	case "no_content":
		return told(c.request("GET", "/none", nil, nil))
	case "not_modified":
		return told(c.request("GET", "/cached", http.Header{"If-None-Match": {`"1"`}}, nil))
	case "redirect":
		return told(c.request("GET", "/redirect", nil, nil))
	case "redirect_path":
		return told(c.request("GET", "/redirect-path", nil, nil))
	case "keep_alive":
		c.fresh()
		for n := 1; n < s.Requests; n++ {
			if _, err := c.request("GET", fmt.Sprintf("/keep-%d", n), nil, nil); err != nil {
				return nil, err
			}
		}
		return told(c.request("GET", "/keep-0", nil, nil))
	case "denied":
		return c.denied()
	}
	return nil, errors.New("no such step: " + s.Step)
}

func (c *client) denied() (said, error) {
	answer, err := c.request("GET", "/denied", nil, nil)
	if err != nil {
		return nil, err
	}
	var problem struct{ Reason string }
	if err := json.Unmarshal(answer.body, &problem); err != nil {
		return nil, err
	}
	return said{"status": answer.status, "type": answer.header.Get("Content-Type"), "reason": problem.Reason}, nil
}

func (c *client) events() (said, error) {
	response, err := c.send("GET", "/events", nil, nil)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	events := []int{}
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: {")
		if !ok {
			continue
		}
		var chunk struct {
			Choices []struct{ Delta struct{ Content string } }
		}
		if err := json.Unmarshal([]byte("{"+data), &chunk); err != nil {
			return nil, err
		}
		var n int
		fmt.Sscan(chunk.Choices[0].Delta.Content, &n)
		events = append(events, n)
		// The upstream holds each event back until the one before was acknowledged.
		if _, err := c.request("GET", fmt.Sprintf("/ack-%d", n), nil, nil); err != nil {
			return nil, err
		}
	}
	return said{"events": events}, lines.Err()
}

type answer struct {
	status int
	header http.Header
	body   []byte
	proto  string
}

func (c *client) request(method, path string, header http.Header, body io.Reader) (answer, error) {
	response, err := c.send(method, path, header, body)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, response.Header, content, response.Proto}, err
}

func (c *client) send(method, path string, header http.Header, body io.Reader) (*http.Response, error) {
	request, err := http.NewRequest(method, c.place.Base+path, body)
	if err != nil {
		return nil, err
	}
	for name, values := range header {
		request.Header[name] = values
	}
	request.Header.Set("Authorization", "Bearer "+c.place.Own)
	request.Header.Set("X-Api-Key", c.place.Own)
	return c.http.Do(request)
}

// fresh forgets all connections.
func (c *client) fresh() {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if c.place.Proxy != nil {
		proxy, err := url.Parse(*c.place.Proxy)
		must(err)
		transport.Proxy = http.ProxyURL(proxy)
	}
	transport.Protocols = new(http.Protocols)
	if len(os.Args) > 1 && os.Args[1] == "2" {
		transport.Protocols.SetUnencryptedHTTP2(true)
		transport.Protocols.SetHTTP2(true)
	} else {
		transport.Protocols.SetHTTP1(true)
	}
	c.http = &http.Client{Transport: transport}
}

// upload streams pieces of 16 KiB that tell their place.
func upload(pieces int) io.Reader {
	reader, writer := io.Pipe()
	go func() {
		for n := range pieces {
			io.WriteString(writer, strings.Repeat(fmt.Sprintf("%015d\n", n), 1024))
		}
		writer.Close()
	}()
	return reader
}

func told(a answer, err error) (said, error) {
	if err != nil {
		return nil, err
	}
	length := a.header.Get("Content-Length")
	return said{"status": a.status, "length": length, "bytes": len(a.body), "text": string(a.body), "http": a.proto}, nil
}

// kind says what went wrong, the same in every run.
func kind(err error) string {
	var lookup *net.DNSError
	if errors.As(err, &lookup) {
		return "DNSError"
	}
	for errors.Unwrap(err) != nil {
		err = errors.Unwrap(err)
	}
	return fmt.Sprintf("%T", err)
}

func say(what said) {
	line, err := json.Marshal(what)
	must(err)
	fmt.Println(string(line))
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
