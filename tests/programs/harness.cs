// A .NET program under a load with known shares: work is three quarters alpha and one quarter beta,
// another thread sleeps. Says `ready PORT` and answers there how much work was done.
//
// With `alloc` the work is to allocate: alpha makes three times as many bytes as beta, of other types.

using System;
using System.Net;
using System.Net.Sockets;
using System.Runtime.CompilerServices;
using System.Text;
using System.Threading;

namespace ResQ.SimulationHarness
{
    public static class Program
    {
        static ulong state = 1;
        static long done;
        public static object kept;

        [MethodImpl(MethodImplOptions.NoInlining)]
        static void Burn(int rounds)
        {
            ulong value = state;
            for (int i = 0; i < rounds * 1000; i++)
            {
                value = value * 6364136223846793005UL + 1442695040888963407UL;
            }
            state = value;
        }

        [MethodImpl(MethodImplOptions.NoInlining)]
        static void Alpha(bool alloc)
        {
            if (alloc) { kept = new byte[3000]; } else { Burn(300); }
            done++;
        }

        [MethodImpl(MethodImplOptions.NoInlining)]
        static void Beta(bool alloc)
        {
            if (alloc) { kept = new char[500]; } else { Burn(100); }
            done++;
        }

        [MethodImpl(MethodImplOptions.NoInlining)]
        static void Step(bool alloc)
        {
            Alpha(alloc);
            Beta(alloc);
            if (alloc) { Thread.SpinWait(2000); }
        }

        [MethodImpl(MethodImplOptions.NoInlining)]
        static void Snooze()
        {
            while (true) { Thread.Sleep(1000); }
        }

        static void Serve(object listens)
        {
            TcpListener listener = (TcpListener)listens;
            byte[] request = new byte[4096];
            while (true)
            {
                using (TcpClient client = listener.AcceptTcpClient())
                {
                    NetworkStream stream = client.GetStream();
                    // All of it: what is left unread would reset the connection.
                    int have = 0;
                    while (have < request.Length)
                    {
                        int more = stream.Read(request, have, request.Length - have);
                        have += more;
                        string text = Encoding.ASCII.GetString(request, 0, have);
                        if (more == 0 || text.EndsWith("\r\n\r\n", StringComparison.Ordinal)) { break; }
                    }
                    string answer = "HTTP/1.0 200 OK\r\n\r\n" + Interlocked.Read(ref done);
                    byte[] bytes = Encoding.ASCII.GetBytes(answer);
                    stream.Write(bytes, 0, bytes.Length);
                }
            }
        }

        static void Background(Thread thread, string name)
        {
            thread.IsBackground = true;
            thread.Name = name;
        }

        static int Main(string[] args)
        {
            bool alloc = args.Length > 0 && args[0] == "alloc";
            // Ends by itself after so many milliseconds.
            int ends = args.Length > 1 && args[0] == "ends" ? int.Parse(args[1]) : 0;
            TcpListener listener = new TcpListener(IPAddress.Loopback, 0);
            listener.Start();
            Thread serves = new Thread(Serve);
            Background(serves, "server");
            serves.Start(listener);
            Thread sleeps = new Thread(Snooze);
            Background(sleeps, "sleeper");
            sleeps.Start();
            Console.WriteLine("ready " + ((IPEndPoint)listener.LocalEndpoint).Port);
            int began = Environment.TickCount;
            while (ends == 0 || Environment.TickCount - began < ends) { Step(alloc); }
            return 7;
        }
    }
}
