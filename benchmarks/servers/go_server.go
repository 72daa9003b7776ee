// The server in Go: crypto/tls, a goroutine for each connection.
// go_server FOLDER echo|sink|source prints its port.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func source(connection net.Conn) {
	request := make([]byte, 8)
	if _, err := io.ReadFull(connection, request); err != nil {
		return
	}
	chunk := make([]byte, 256*1024)
	for left := binary.BigEndian.Uint64(request); left > 0; {
		if left < uint64(len(chunk)) {
			chunk = chunk[:left]
		}
		if _, err := connection.Write(chunk); err != nil {
			return
		}
		left -= uint64(len(chunk))
	}
	io.Copy(io.Discard, connection)
}

func serve(connection net.Conn, handler string) {
	defer connection.Close()
	switch handler {
	case "sink":
		io.Copy(io.Discard, connection)
	case "source":
		source(connection)
	default:
		io.Copy(connection, connection)
	}
}

func main() {
	folder := os.Args[1]
	certificate, err := tls.LoadX509KeyPair(folder+"/chain.pem", folder+"/node.key")
	check(err)
	authority, err := os.ReadFile(folder + "/ca.pem")
	check(err)
	trust := x509.NewCertPool()
	trust.AppendCertsFromPEM(authority)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{certificate},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    trust,
		MinVersion:   tls.VersionTLS12,
	})
	check(err)
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	for {
		connection, err := listener.Accept()
		check(err)
		go serve(connection, os.Args[2])
	}
}
