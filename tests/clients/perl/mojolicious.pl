# Mojolicious, with permessage-deflate in the request.
use v5.36;
use Mojo::IOLoop;
use Mojo::UserAgent;
binmode STDOUT, ':encoding(UTF-8)';
STDOUT->autoflush;

my ($url, @protocols) = @ARGV;
my $agent = Mojo::UserAgent->new(max_response_size => 0, inactivity_timeout => 0);
my $input = '';

sub obey ($link) {
    Mojo::IOLoop->singleton->reactor->io(\*STDIN, sub {
        sysread(STDIN, $input, 1 << 16, length $input) or exit;
        while ($input =~ s/^(\w+) ([^\n]*)\n//) { $1 eq 'close' ? $link->finish($2) : $link->send(Mojo::Util::decode('UTF-8', $2)) }
    })->watch(\*STDIN, 1, 0);
}

my $request = $agent->build_websocket_tx($url => {'Sec-WebSocket-Extensions' => 'permessage-deflate'} => [@protocols]);
$agent->start($request => sub ($agent, $link) {
    return say 'failed ', $link->res->code // 'no answer' unless $link->is_websocket;
    $link->max_websocket_size(1 << 30);
    $link->compressed(1) if ($link->res->headers->sec_websocket_extensions // '') =~ /permessage-deflate/;
    say 'open ', $link->protocol // '';
    $link->on(text => sub ($link, $bytes) { say 'text ', Mojo::Util::decode('UTF-8', $bytes) });
    $link->on(finish => sub ($link, $code, $reason = undef) { say "closed $code"; exit });
    obey($link);
});
Mojo::IOLoop->start;
