"""Small clients in several languages: each asks for its first argument and says in one line what came of it."""

from __future__ import annotations

URLLIB = """
import sys, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=50).status)
except OSError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""
REQUESTS = """
import sys, requests
try:
    print(requests.get(sys.argv[1], timeout=50).status_code)
except requests.RequestException as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""
NODE = """
fetch(process.argv[1]).then((answer) => console.log(answer.status)).catch((error) => {
    console.error(String(error), String(error.cause ?? ""));
    process.exitCode = 1;
});
"""
NODE_DNS = """
require("dns").resolve4(process.argv[1], (error, found) => {
    console.log(error ? String(error) : found.length);
    process.exitCode = error ? 1 : 0;
});
"""
GO = """
package main

import (
	"fmt"
	"net/http"
	"os"
)

func main() {
	answer, err := http.Get(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(answer.StatusCode)
}
"""
JAVA = """
import java.net.HttpURLConnection;
import java.net.URL;

public class Fetch {
    public static void main(String[] words) {
        try {
            System.out.println(((HttpURLConnection) new URL(words[0]).openConnection()).getResponseCode());
        } catch (java.io.IOException error) {
            System.err.println(error);
            System.exit(1);
        }
    }
}
"""

#: Of a socket: "tcp" or "udp", host, port; a datagram is sent from a connected socket or, with "to", from one that is not.
SOCKET = """
import socket, sys
kind, host, port, how = [*sys.argv[1:], ""][:4]
try:
    [(family, _, _, _, address), *_] = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    sock = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    sock.settimeout(2 if how else 20)
    if not how:
        sock.connect(address)
    data = b"HEAD / HTTP/1.0\\r\\n\\r\\n" if kind == "tcp" else bytes([0xC0, 0, 0, 0, 1]) + bytes(1195)
    if how:
        sock.sendto(data, address)
    else:
        sock.send(data)
    print(len(sock.recv(1000)) > 0)
except OSError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""
