// The other peer: the script's two calls a row, every one of them, in Go with as many goroutines as the worker has rows
// in flight. Prints its wall and CPU seconds.
package main

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
)

type plan struct {
	Name string `json:"name"`
}

type practitioner struct {
	Name []struct {
		Text string `json:"text"`
	} `json:"name"`
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// get decodes the JSON at an URL.
func get(client *http.Client, from string, into any) {
	request := must(http.NewRequest("GET", from, nil))
	request.Header.Set("Authorization", "Bearer benchmark")
	answer := must(client.Do(request))
	defer answer.Body.Close()
	if answer.StatusCode != 200 {
		panic(answer.Status)
	}
	if err := json.NewDecoder(answer.Body).Decode(into); err != nil {
		panic(err)
	}
}

func main() {
	begun := time.Now()
	base, threads := os.Args[3], must(strconv.Atoi(os.Args[4]))
	rows := must(csv.NewReader(must(os.Open(os.Args[1]))).ReadAll())[1:]
	transport := &http.Transport{MaxIdleConnsPerHost: threads}
	client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	results := make([][]string, len(rows))
	places := make(chan int, len(rows))
	for place := range rows {
		places <- place
	}
	close(places)
	var running sync.WaitGroup
	for range threads {
		running.Add(1)
		go func() {
			defer running.Done()
			for place := range places {
				var bought plan
				var found practitioner
				get(client, base+"/api/plans?client_id="+url.QueryEscape(rows[place][0]), &bought)
				get(client, base+"/fhir/Practitioner/"+rows[place][1], &found)
				results[place] = []string{rows[place][0], bought.Name, found.Name[0].Text}
			}
		}()
	}
	running.Wait()
	file := must(os.Create(os.Args[2]))
	if err := csv.NewWriter(file).WriteAll(append([][]string{{"client_id", "plan", "practitioner"}}, results...)); err != nil {
		panic(err)
	}
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	cpu := time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	fmt.Println(time.Since(begun).Seconds(), cpu.Seconds())
}
