/* A client of HTTP that asks one thing and reads until the other side closes. */
#ifndef HTTP_H
#define HTTP_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* A connection to a url "http://127.0.0.1:PORT" on which the request was sent; -1 when nobody listens. body may be NULL. */
static inline int http_ask(const char *url, const char *method, const char *path, const char *key, const char *body) {
  struct sockaddr_in address;
  char head[512];
  const char *port = strrchr(url, ':');
  int connection = socket(AF_INET, SOCK_STREAM, 0);
  memset(&address, 0, sizeof address);
  address.sin_family = AF_INET;
  address.sin_port = htons((unsigned short)atoi(port + 1));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connection < 0 || connect(connection, (const struct sockaddr *)&address, sizeof address) != 0) {
    if (connection >= 0)
      close(connection);
    return -1;
  }
  snprintf(head, sizeof head,
           "%s %s HTTP/1.1\r\nHost: 127.0.0.1%s\r\nConnection: close\r\nContent-Type: application/json\r\n"
           "%s%s%sContent-Length: %lu\r\n\r\n",
           method, path, port, key != NULL ? "Authorization: Bearer " : "", key != NULL ? key : "", key != NULL ? "\r\n" : "",
           (unsigned long)(body != NULL ? strlen(body) : 0));
  if (write(connection, head, strlen(head)) < 0 || (body != NULL && write(connection, body, strlen(body)) < 0)) {
    close(connection);
    return -1;
  }
  return connection;
}

/* What is read until the other side closes; its length. */
static inline size_t http_read(int connection, char *out, size_t capacity) {
  size_t len = 0;
  ssize_t more;
  while (len + 1 < capacity && (more = read(connection, out + len, capacity - 1 - len)) > 0)
    len += (size_t)more;
  out[len] = '\0';
  close(connection);
  return len;
}

/* The status of an answer, which is written to out; 0 when nobody listens. */
static inline int http(const char *url, const char *method, const char *path, const char *key, const char *body, char *out,
                       size_t capacity) {
  int connection = http_ask(url, method, path, key, body);
  if (connection < 0)
    return 0;
  return http_read(connection, out, capacity) > 12 ? atoi(out + 9) : 0;
}

#endif
