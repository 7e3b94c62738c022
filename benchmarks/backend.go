// A REST and FHIR backend that is not the bottleneck: every answer after a fixed latency, some microseconds of work each.
//
// It prints its port and serves until its standard input closes. Built and started by backend.py.
package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

const practitioner = `{"resourceType":"Practitioner","id":"%s",` +
	`"meta":{"profile":["http://hl7.org/fhir/us/core/StructureDefinition/us-core-practitioner"]},` +
	`"identifier":[{"system":"http://hl7.org/fhir/sid/us-npi","value":"9999992198"}],"active":true,` +
	`"name":[{"family":"Bergstrom287","given":["Randy380"],"prefix":["Dr."],"text":"Dr. Bergstrom287"}],` +
	`"address":[{"line":["8929 PARALLEL PARKWAY"],"city":"LEAWOOD","state":"KS","country":"US"}],"gender":"female"}`

var requests atomic.Int64

// answer is the JSON for a GET.
func answer(target string) string {
	path, query, _ := strings.Cut(target, "?")
	values, _ := url.ParseQuery(query)
	switch {
	case path == "/requests":
		return fmt.Sprint(requests.Swap(0))
	case path == "/api/plans":
		return `{"client_id":"` + values.Get("client_id") + `","name":"basic","active":true}`
	case path == "/fhir/Practitioner":
		return searchset(target, strings.Split(values.Get("_id"), ","))
	}
	return fmt.Sprintf(practitioner, path[strings.LastIndexByte(path, '/')+1:])
}

// searchset is a Bundle of the resources with these ids.
func searchset(target string, ids []string) string {
	entries := make([]string, len(ids))
	for place, id := range ids {
		entries[place] = `{"resource":` + fmt.Sprintf(practitioner, id) + `,"search":{"mode":"match"}}`
	}
	return `{"resourceType":"Bundle","type":"searchset","link":[{"relation":"self","url":"` + target + `"}],"entry":[` +
		strings.Join(entries, ",") + `]}`
}

// serve answers what comes on one connection, one request after the other; none of them has a body.
func serve(connection net.Conn, latency time.Duration) {
	defer connection.Close()
	reader := bufio.NewReader(connection)
	for {
		first, err := reader.ReadSlice('\n')
		if err != nil {
			return
		}
		target := string(bytes.Fields(first)[1])
		for len(first) > 2 {
			if first, err = reader.ReadSlice('\n'); err != nil {
				return
			}
		}
		if target != "/requests" {
			requests.Add(1)
			time.Sleep(latency)
		}
		body := answer(target)
		fmt.Fprintf(connection, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	}
}

func main() {
	latency, err := time.ParseDuration(os.Args[1] + "s")
	if err != nil {
		panic(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				panic(err)
			}
			go serve(connection, latency)
		}
	}()
	io.Copy(io.Discard, os.Stdin)
}
